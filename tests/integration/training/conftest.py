import pytest

from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.training.config import TrainConfig


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_same_color(folder / "train", 12, seed=0)
    write_same_color(folder / "val", 6, seed=1)
    return folder


@pytest.fixture
def config(videos, tmp_path):
    return TrainConfig(
        data=videos / "train",
        val=videos / "val",
        out=tmp_path / "run",
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
