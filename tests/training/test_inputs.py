import collections
from pathlib import Path

import pytest

from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.inputs import _Shuffled, find_start


def take(sampler, count):
    return [index for index, _ in zip(sampler, range(count), strict=False)]


def test_every_epoch_has_every_video_once_in_a_new_order():
    drawn = take(_Shuffled(7, seed=3, start=0), 21)
    epochs = [tuple(drawn[i : i + 7]) for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_the_order_goes_on_where_a_resumed_run_starts():
    whole = take(_Shuffled(7, seed=3, start=0), 30)
    for start in (1, 7, 10):
        assert take(_Shuffled(7, seed=3, start=start), 30 - start) == whole[start:]


def test_seeds_give_other_orders():
    orders = collections.Counter(tuple(take(_Shuffled(9, seed, 0), 9)) for seed in range(20))
    assert max(orders.values()) == 1


@pytest.fixture
def asked(monkeypatch):
    """Names that would be downloaded."""
    names = []

    def find(name):
        names.append(str(name))
        return Path(name)

    monkeypatch.setattr("nonlocalnet.training.inputs.find_weights", find)
    return names


@pytest.mark.parametrize(
    ("model", "init", "release"),
    [
        ("i3d_r50_nl5", "auto", "resnet50_imagenet"),
        ("c2d_r101", "auto", "resnet101_imagenet"),
        ("c2d_r50_nl1_res2", "imagenet", "resnet50_imagenet"),
    ],
)
def test_the_default_start_is_the_classifier_of_that_depth(asked, model, init, release):
    config = TrainConfig(data=Path("d"), out=Path("o"), model=model, init=init)
    assert find_start(config) == Path(release)
    assert asked == [release]


@pytest.mark.parametrize(("model", "init"), [("c2d_tiny", "auto"), ("i3d_r50", "none")])
def test_nothing_to_start_from(asked, model, init):
    config = TrainConfig(data=Path("d"), out=Path("o"), model=model, init=init)
    assert find_start(config) is None
    assert asked == []


def test_small_networks_have_no_imagenet(asked):
    config = TrainConfig(data=Path("d"), out=Path("o"), model="c2d_tiny", init="imagenet")
    with pytest.raises(ValueError, match=r"c2d_tiny has no ImageNet weights.*--init none"):
        find_start(config)


def test_a_start_that_is_nothing_is_named(tmp_path):
    config = TrainConfig(data=Path("d"), out=Path("o"), model="c2d_tiny", init="i3d_best")
    with pytest.raises(FileNotFoundError, match="i3d_best is neither a file nor a release"):
        find_start(config)


def test_a_resumed_run_downloads_nothing(asked, tmp_path):
    config = TrainConfig(data=Path("d"), out=tmp_path, model="i3d_r50", resume=True)
    assert find_start(config) is None
    (tmp_path / "model.safetensors").touch()
    assert find_start(config) == tmp_path / "model.safetensors"
    assert asked == []
