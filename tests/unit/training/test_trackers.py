"""Where else the numbers of a run go."""

import dataclasses
import json
import sys

import pytest

from nonlocalnet.runtime.log import MetricsLog
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trackers import find_function, start_trackers

TRACKER = """
import json

def start(config):
    file = open(config.out / "seen.jsonl", "w")
    def track(line):
        file.write(json.dumps(line) + "\\n")
    track.close = file.close
    return track
"""


@pytest.fixture
def config(tmp_path):
    return TrainConfig(data=tmp_path, out=tmp_path, model="c2d_tiny_nl2")


def write(config):
    metrics = MetricsLog(config.out / "metrics.jsonl", start_trackers(config))
    for iteration in (10, 20):
        metrics.write("train", iteration=iteration, loss=1 / iteration, accuracy=float("nan"))
    metrics.write("val", iteration=20, top1=50.0)
    metrics.close()
    return [json.loads(line) for line in metrics.lines]


def test_tensorboard_gets_the_numbers(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(dataclasses.replace(config, tensorboard=True))
    events = EventAccumulator(str(config.out / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "val/top1"]
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]


def test_without_the_package_tensorboard_says_what_to_install(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ValueError, match=r"pip install 'nonlocalnet\[tensorboard\]'"):
        start_trackers(dataclasses.replace(config, tensorboard=True))


def test_a_function_of_a_file_or_a_module_gets_every_line(config, tmp_path, monkeypatch):
    (tmp_path / "mine_to_track.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    for name in (f"{tmp_path}/mine_to_track.py:start", "mine_to_track:start"):
        lines = write(dataclasses.replace(config, tracker=name))
        seen = (tmp_path / "seen.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in seen] == lines[-3:]
        (tmp_path / "metrics.jsonl").unlink()


def test_what_the_function_raises_is_one_sentence(config, tmp_path):
    (tmp_path / "t.py").write_text("def start(config):\n    raise OSError('no server')")
    with pytest.raises(ValueError, match=r"t\.py:start': OSError: no server"):
        start_trackers(dataclasses.replace(config, tracker=f"{tmp_path}/t.py:start"))


@pytest.mark.parametrize("name", ["wandb", ":start", "a.py:", "a.py:two words"])
def test_a_name_of_another_form_is_refused(config, name):
    with pytest.raises(ValueError, match=r"tracker must be MODULE:FUNCTION or FILE\.py:FUNCTION"):
        dataclasses.replace(config, tracker=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:start", "no_such_module cannot be imported: No module named"),
        ("no/such/file.py:start", "file.py cannot be imported: .*No such file"),
        ("math:start", "math has no function 'start'"),
        ("math:pi", "math has no function 'pi'"),
    ],
)
def test_what_cannot_be_found_is_said(name, message):
    with pytest.raises(ValueError, match=f"tracker='{name}': .*{message}"):
        find_function(name)
