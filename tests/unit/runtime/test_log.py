import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from nonlocalnet.runtime import log
from nonlocalnet.runtime.device import pick_device, pick_precision


def test_every_line_is_json_and_nan_is_null(tmp_path):
    metrics = log.MetricsLog(tmp_path / "m.jsonl")
    metrics.write("train", iteration=1, loss=math.nan)
    metrics.write("val", iteration=1, top1=50.0)
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert lines[0] == {"kind": "train", "iteration": 1, "loss": None}
    assert log.read_metrics(metrics.path, "val") == [lines[1]]


def test_truncate_drops_later_lines_and_a_cut_one(tmp_path):
    metrics = log.MetricsLog(tmp_path / "m.jsonl")
    for iteration in (10, 20, 30):
        metrics.write("train", iteration=iteration)
    with metrics.path.open("a") as file:
        file.write('{"kind": "tr')
    metrics.truncate(train=20, val=20)
    assert [line["iteration"] for line in log.read_metrics(metrics.path, "train")] == [10, 20]


def test_without_a_terminal_the_bar_speaks_in_lines(capsys, monkeypatch):
    plain = log.Console(force_terminal=False, highlight=False, stderr=True)
    monkeypatch.setattr(log, "status", plain)
    with log.Bar("train", total=4, every=0.0) as bar:
        bar.advance(1, "loss 1.000")
        bar.advance(1)
    streams = capsys.readouterr()
    assert streams.out == ""  # results alone, so that --json can be read by a machine
    said = streams.err.splitlines()
    assert said[0].startswith("train 1/4  loss 1.000  ")
    assert said[1].startswith("train 2/4  loss 1.000  ")
    assert said[1].endswith("s left")


def test_devices_and_precisions():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="'nonsense' cannot be used here"):
        pick_device("nonsense")
    assert pick_precision("auto", torch.device("cpu")) is None
    assert pick_precision("bf16", torch.device("cpu")) == torch.bfloat16


def test_trackers_get_every_line_and_one_that_fails_is_left_out(tmp_path, capsys):
    seen = []

    def broken(line):
        line.clear()  # its own copy
        raise ConnectionError("no server")

    metrics = log.MetricsLog(tmp_path / "m.jsonl", [broken, seen.append])
    metrics.write("train", iteration=1, loss=0.5, accuracy=math.nan)
    metrics.write("val", iteration=1, top1=50.0)
    metrics.close()
    assert seen == [json.loads(line) for line in metrics.lines]
    assert seen[0] == {"kind": "train", "iteration": 1, "loss": 0.5, "accuracy": None}
    said = capsys.readouterr().err
    assert " ".join(said.split()) == (
        f"the tracker of {__name__} gets no more numbers: ConnectionError: no server"
    )


def test_brackets_in_names_are_not_markup(capsys):
    log.status.print("runs/[red]a[/red]/[b", soft_wrap=True)
    assert capsys.readouterr().err == "runs/[red]a[/red]/[b\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file of Linux")
def test_a_full_disk_is_told_with_the_file():
    with pytest.raises(OSError, match="/dev/full could not be written: No space left"):
        log.MetricsLog(Path("/dev/full")).write("train", iteration=1)


def test_a_table_that_does_not_fit_becomes_paragraphs(monkeypatch, capsys):
    table = Table("name", "what", "", "why", title="all of them")
    table.add_row("a" * 50, "some words " * 4, "x", "")
    table.add_row("b", "c", "d", "e")
    monkeypatch.setattr(log.console, "width", 60)
    log.print_table(table)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "all of them"
    assert "a" * 50 in said
    assert said[-2:] == ["b", "  what c, d, why e"]
    assert max(map(len, said)) <= 60
    monkeypatch.setattr(log.console, "width", 120)
    log.print_table(table)
    assert "┏" in capsys.readouterr().out


def test_names_cannot_act_on_the_terminal(capsys):
    evil = "a\x1b[31mred\x1b[2J\rb\u202ec.mp4"
    log.console.print(evil)
    table = Table("video", title=evil)
    table.add_row(evil)
    log.print_table(table)
    log.status.print("x" * 100_000, soft_wrap=True)
    said = capsys.readouterr()
    assert not {"\x1b", "\r", "\u202e"} & set(said.out)
    assert r"\x1b[31mred" in said.out
    assert len(said.err) < 5000


def test_a_pipe_is_no_terminal_even_with_forced_colors(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does for the commands of a notebook
    assert Console(stderr=True).is_terminal  # so rich would draw bars
    assert not type(log.status)(stderr=True).is_terminal
