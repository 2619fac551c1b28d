import collections
import itertools
import os
import signal
from pathlib import Path

import pytest
import torch

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.transforms import TrainTransform
from nonlocalnet.training import loader
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.loader import EndlessSampler, endless_batches
from nonlocalnet.training.setup import find_init


def take(sampler, count):
    return list(itertools.islice(sampler, count))


def test_every_epoch_has_every_video_once_in_a_new_order():
    drawn = [draw.item for draw in take(EndlessSampler(7, 2, seed=3, start=0), 21)]
    epochs = [tuple(drawn[i : i + 7]) for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_draws_go_on_where_a_resumed_run_starts():
    whole = take(EndlessSampler(7, 3, seed=3, start=0), 60)
    for start in (1, 2, 7, 10):
        assert take(EndlessSampler(7, 3, seed=3, start=start), 60 - 3 * start) == whole[3 * start :]


def test_every_draw_has_a_seed_of_its_own():
    assert len({draw.seed for draw in take(EndlessSampler(5, 4, seed=0, start=0), 500)}) == 500


def test_seeds_give_other_orders():
    def order(seed):
        return tuple(draw.item for draw in take(EndlessSampler(9, 9, seed, 0), 9))

    assert max(collections.Counter(map(order, range(20))).values()) == 1


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_what_one_would_draw(monkeypatch, processes):
    whole = take(EndlessSampler(7, 8, seed=1, start=2), 24)
    monkeypatch.setattr(loader, "world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        shares.append(take(EndlessSampler(7, 8, seed=1, start=2), 24 // processes))
    part = 8 // processes
    updates = [
        draw for u in range(3) for share in shares for draw in share[u * part : (u + 1) * part]
    ]
    assert updates == whole


def make_dataset(folder, **options):
    found, transform = read_dataset(folder), TrainTransform(32, (32, 36))
    return VideoDataset(
        found.train, len(found.classes), ClipSpec(4, 1), transform, train=True, **options
    )


@pytest.mark.parametrize("other", [{"workers": 0}, {"workers": 2}, {"accumulate": 2}])
def test_a_clip_depends_on_the_seed_and_its_number_alone(videos, other):
    dataset = make_dataset(videos / "train")
    options = {"batch_size": 4, "seed": 5, "start": 0, "workers": 1} | other
    parts = options.get("accumulate", 1)
    found = endless_batches(dataset, **options)
    later = endless_batches(dataset, **(options | {"start": 2}))
    clips = [torch.cat([next(found)[0] for _ in range(parts)]) for _ in range(4)]
    torch.manual_seed(99)
    plain = endless_batches(dataset, batch_size=4, seed=5, start=0, workers=0)
    for clip in clips:
        assert torch.equal(clip, next(plain)[0])
    assert torch.equal(clips[2], torch.cat([next(later)[0] for _ in range(parts)]))


class Dying:
    """Pass a data set's items on, and end the process at some of them, once or always."""

    def __init__(self, dataset, file, times):
        self.dataset, self.file, self.times = dataset, file, times

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, draw):
        died = self.file.read_text().count("x") if self.file.exists() else 0
        if draw.item == 3 and died < self.times:
            self.file.write_text("x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.dataset[draw]


def test_a_decoding_process_that_dies_is_replaced(videos, tmp_path, capsys):
    dataset = make_dataset(videos / "train")
    options = {"batch_size": 4, "seed": 5, "start": 0, "accumulate": 2}
    expected = endless_batches(dataset, **options, workers=0)
    found = endless_batches(Dying(dataset, tmp_path / "died", 2), **options, workers=1)
    for _ in range(9):
        assert torch.equal(next(found)[0], next(expected)[0])
    assert capsys.readouterr().err.count("a decoding process died") == 2


def test_decoding_processes_that_always_die_end_the_run(videos, tmp_path):
    dataset = Dying(make_dataset(videos / "train"), tmp_path / "died", 99)
    with pytest.raises(RuntimeError, match=r"die again and again.*fewer workers"):
        for _ in endless_batches(dataset, batch_size=4, seed=5, start=0, workers=1):
            pass


def test_too_many_bad_videos_are_told_without_a_traceback(videos, tmp_path):
    for name in ("different", "same"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.mp4").write_text("no video")
    dataset = make_dataset(tmp_path)
    with pytest.raises(RuntimeError, match=r"^\d of 2 videos cannot be read"):
        next(endless_batches(dataset, batch_size=2, seed=0, start=0, workers=1))


@pytest.fixture
def asked(monkeypatch):
    """Names that would be downloaded."""
    names = []

    def find(name):
        names.append(str(name))
        return Path(name)

    monkeypatch.setattr("nonlocalnet.training.setup.find_weights", find)
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
    assert find_init(config.resolve()) == Path(release)
    assert asked == [release]


@pytest.mark.parametrize(("model", "init"), [("c2d_tiny", "auto"), ("i3d_r50", "none")])
def test_nothing_to_start_from(asked, model, init):
    config = TrainConfig(data=Path("d"), out=Path("o"), model=model, init=init)
    assert find_init(config.resolve()) is None
    assert asked == []


def test_small_networks_have_no_imagenet(asked):
    config = TrainConfig(data=Path("d"), out=Path("o"), model="c2d_tiny", init="imagenet")
    with pytest.raises(ValueError, match=r"c2d_tiny has no ImageNet weights.*init='none'"):
        find_init(config.resolve())


def test_a_start_that_is_nothing_is_named(tmp_path):
    config = TrainConfig(data=Path("d"), out=Path("o"), model="c2d_tiny", init="i3d_best")
    with pytest.raises(FileNotFoundError, match="i3d_best is neither a file nor a release"):
        find_init(config.resolve())
