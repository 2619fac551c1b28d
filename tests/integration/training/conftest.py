import dataclasses
import shutil

import pytest

from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trainer import train


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_same_color(folder / "train", 12, seed=0)
    write_same_color(folder / "val", 6, seed=1)
    return folder


@pytest.fixture(scope="session")
def make_config(videos):
    """make_config(out): a run of six updates into the folder `out`."""
    return lambda out: TrainConfig(
        data=videos / "train",
        val=videos / "val",
        out=out,
        model="c2d_tiny_nl2",
        clip="4x2",
        crop=32,
        short_side=(32, 36),
        iterations=6,
        batch_size=4,
        lr=0.05,
        workers=0,
        log_every=2,
        eval_every=3,
        device="cpu",
    )


@pytest.fixture
def config(make_config, tmp_path):
    return make_config(tmp_path / "run")


@pytest.fixture(scope="session")
def unbroken(make_config, tmp_path_factory):
    """The options of a run that is complete, with a state and a line of numbers per update."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    config = dataclasses.replace(make_config(out), log_every=1, checkpoint_every=1)
    train(config)
    return config


@pytest.fixture
def copied(unbroken, tmp_path):
    """The same in a folder of its own."""
    shutil.copytree(unbroken.out, tmp_path / "run")
    return dataclasses.replace(unbroken, out=tmp_path / "run")
