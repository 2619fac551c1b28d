"""A format is one module and one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nonlocalnet.cli import main
from nonlocalnet.data import formats
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.synthetic import write_same_color

MADE_UP = '''
"""Birdsong: birds.tsv has "ID<tab>BIRD" lines; odd lines are for training."""

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.text import read_lines


def matches(source: Source) -> bool:
    return source.find_file("birds.tsv") is not None


def read(source: Source) -> Annotations:
    entries = []
    for where, line in read_lines(source.find_file("birds.tsv")):
        name, mark, bird = line.partition("\\t")
        if not mark:
            raise ValueError(f"{where}: expected ID and BIRD, got {line!r}")
        entries.append(Entry(name, bird, source.videos.find(name), where))
    classes = sorted({entry.label for entry in entries})
    test = [Entry(path.stem, (), path, "") for path in source.videos.videos if "test" in path.parts]
    return Annotations(
        entries[::2], entries[1::2], classes, notes=("birds are shy",), test=test
    )
'''


@pytest.fixture
def birdsong(tmp_path, monkeypatch) -> Path:
    """A data set of the made-up format, and the format."""
    write_same_color(tmp_path / "data", 8, seed=0)
    ids = sorted(path.stem for path in (tmp_path / "data").rglob("*.mp4"))
    lines = [f"{name}\t{('tit', 'owl')[i // 2 % 2]}\n" for i, name in enumerate(ids)]
    (tmp_path / "data/birds.tsv").write_text("".join(lines))
    (tmp_path / "made_up_birdsong.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(tmp_path)
    import made_up_birdsong

    monkeypatch.setattr(formats, "FORMATS", [made_up_birdsong, *formats.FORMATS])
    return tmp_path / "data"


def test_a_made_up_format_takes_one_module_and_one_line(birdsong, capfd):
    data = read_dataset(birdsong)
    assert data.classes == ["owl", "tit"]
    assert [(r.name, r.labels) for r in data.train] == [
        ("00000", (1,)),
        ("00002", (0,)),
        ("00004", (1,)),
        ("00006", (0,)),
    ]
    assert [r.name for r in data.val or []] == ["00001", "00003", "00005", "00007"]
    (birdsong / "test").mkdir()
    (birdsong / "test/00008.mp4").write_bytes(data.train[0].path.read_bytes())
    assert main(["data", "check", str(birdsong), "--workers", "1"]) == 0
    said = capfd.readouterr()
    assert "owl" in said.out
    assert "birds are shy" in said.out + said.err
    (birdsong / "birds.tsv").write_text("no tab\n")
    with pytest.raises(ValueError, match=r"birds\.tsv:1: expected ID and BIRD"):
        read_dataset(birdsong)


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("datasets, sampling", {"torch", "torchvision", "av", "numpy"}),
        ("check, resize, summary, video.reader", {"torch", "torchvision"}),
    ],
)
def test_what_is_not_needed_is_not_imported(modules, without):
    lines = [f"import nonlocalnet.data.{name}" for name in modules.split(", ")]
    code = "\n".join(["import sys", *lines, f"sys.exit(str({without} & {{*sys.modules}} or ''))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
