from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data import dataset as module
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord, read_dataset
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.data.video.reader import VideoError, VideoReader
from nonlocalnet.data.video.write import write_video

FRAMES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """6 videos of 20 flat frames; red tells the video (20 i), green the frame (10 t)."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(6):
        frames = np.full((FRAMES, 32, 32, 3), 100, np.uint8)
        frames[..., 0] = 20 + 30 * i
        frames[..., 1] = (10 + 10 * np.arange(FRAMES))[:, None, None]
        (root / f"class{i % 2}").mkdir(exist_ok=True)
        write_video(root / f"class{i % 2}" / f"{i}.mp4", frames)
    return root


@pytest.fixture
def records(folder) -> list[VideoRecord]:
    return sorted(read_dataset(folder).train, key=lambda r: r.path.stem)


@pytest.fixture
def broken(records, tmp_path) -> list[VideoRecord]:
    """The same, with videos 1 and 4 broken."""
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    return [VideoRecord(bad, r.labels, r.name) if i in (1, 4) else r for i, r in enumerate(records)]


def train_set(records, clip="4x2", **options) -> VideoDataset:
    transform = TrainTransform(crop=16, short_side=16, flip=0)
    return VideoDataset(records, 2, ClipSpec.parse(clip), transform, train=True, **options)


def view_set(records, clip="4x2", num_crops=1, **options) -> VideoDataset:
    transform = TestTransform(crop=16, short_side=16, num_crops=num_crops)
    return VideoDataset(records, 2, ClipSpec.parse(clip), transform, train=False, **options)


def seen(clip: torch.Tensor) -> tuple[int, list[int]]:
    """Read from a clip (3, T, H, W) which video and which frames it shows."""
    color = clip.float().mean((2, 3))
    return round((color[0].mean().item() - 20) / 30), ((color[1] - 10) / 10).round().int().tolist()


def test_training_item(records):
    data = train_set(records)
    assert len(data) == 6
    starts = set()
    torch.manual_seed(0)
    for i in list(range(6)) * 12:
        clip, target, j = data[i]
        assert clip.shape == (3, 4, 16, 16)
        assert (clip.dtype, target.dtype, target.shape) == (torch.uint8, torch.int64, ())
        shown, frames = seen(clip)
        assert (shown, j, target) == (i, i, i % 2)
        assert frames == [frames[0] + 2 * k for k in range(4)]
        starts.add(frames[0])
    assert starts == set(range(13))  # 0 to 20 - 8


def test_short_videos_loop(records):
    clip, _, _ = train_set(records, "12x3")[2]
    assert seen(clip) == (2, [(3 * k) % 20 for k in range(12)])


def test_test_views_by_hand(records):
    data = view_set(records, num_crops=3, num_clips=4)
    views, target, j = data[3]
    assert views.shape == (12, 3, 4, 16, 16)
    assert (target, j) == (1, 3)
    # starts int(j * 20 / 4), three crops of each clip one after the other, the last clip wraps
    starts = [seen(view)[1] for view in views]
    assert starts[0] == starts[1] == starts[2] == [0, 2, 4, 6]
    assert starts[3] == starts[5] == [5, 7, 9, 11]
    assert starts[9] == [15, 17, 19, 1]
    assert torch.equal(views, data[3][0])


def test_crops_of_a_view_are_in_order(tmp_path):
    frames = np.zeros((4, 16, 32, 3), np.uint8)
    frames[..., 0] = np.repeat([20, 120, 220, 220], 8)[None, None]
    write_video(tmp_path / "a.mp4", frames)
    data = view_set([VideoRecord(tmp_path / "a.mp4", (0,), "a")], "2x1", num_crops=3)
    left, center, right = data[0][0][:, 0].float().mean((1, 2, 3)).tolist()
    assert left == pytest.approx(70, abs=6)  # columns 0 to 15: 20 and 120
    assert center == pytest.approx(170, abs=6)
    assert right == pytest.approx(220, abs=6)


def test_a_single_test_clip_is_the_middle(records):
    views, _, _ = view_set(records)[0]
    assert views.shape == (1, 3, 4, 16, 16)
    assert seen(views[0]) == (0, [6, 8, 10, 12])  # start (20 - 8) / 2


def test_multi_label(records):
    many = [
        VideoRecord(r.path, labels, r.name)
        for r, labels in zip(records, [(0, 3), ()] * 3, strict=True)
    ]
    transform = TrainTransform(crop=16, short_side=16)
    data = VideoDataset(many, 4, ClipSpec(2, 1), transform, train=True, multi_label=True)
    assert data[0][1].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert data[0][1].dtype == torch.float32
    assert data[1][1].tolist() == [0.0] * 4


def test_seeding_decides_everything_in_workers_too(records):
    def epochs(seed: int, workers: int) -> list[list[list[int]]]:
        torch.manual_seed(seed)
        loader = DataLoader(train_set(records, "4x1"), batch_size=1, num_workers=workers)
        return [[seen(clip[0])[1] for clip, _, _ in loader] for _ in range(2)]

    first, second = epochs(0, 2)
    assert first != second
    assert epochs(0, 2) == [first, second]
    assert epochs(1, 2) != [first, second]
    starts = [frames[0] for frames in first + second]
    # workers 0 and 1 take items in turn: were they seeded alike, pairs would be equal
    assert any(a != b for a, b in zip(starts[::2], starts[1::2], strict=True))


def test_an_unreadable_video_is_replaced_and_recorded(broken):
    data = train_set(broken, max_bad=0.5)
    torch.manual_seed(0)
    used = set()
    for _ in range(20):
        clip, target, j = data[1]
        assert j not in (1, 4)
        assert seen(clip)[0] == j  # the sample is really that of the index it carries
        assert target == j % 2
        used.add(j)
    assert len(used) >= 3
    assert 1 in data.bad_indices()
    assert set(data.bad_indices()) <= {1, 4}


def test_the_main_process_learns_what_workers_replaced(broken):
    data = train_set(broken, max_bad=0.5)
    used = torch.cat([index for _, _, index in DataLoader(data, 2, num_workers=2)]).tolist()
    assert len(used) == 6
    assert [i for i, j in enumerate(used) if i != j] == [1, 4]
    assert data.bad_indices() == [1, 4]


def test_spawned_workers(records, broken):
    # nothing is inherited: the data sets travel, cache and shared memory with them
    data, cached = train_set(broken, max_bad=0.5), view_set(records, cache=True)
    loader = DataLoader(
        ConcatDataset([data, cached]),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    items = list(loader)
    assert [i for i, (_, _, j) in enumerate(items[:6]) if i != j] == [1, 4]
    assert data.bad_indices() == [1, 4]
    assert [seen(views[0]) for views, _, _ in items[6:]] == [(i, [6, 8, 10, 12]) for i in range(6)]


def test_too_many_bad_videos_end_the_training(broken):
    one = train_set(broken[:4], max_bad=0.25)  # one bad of four is just allowed
    assert all(one[1][2] in (0, 2, 3) for _ in range(20))
    two = train_set(broken, max_bad=0.25)  # two of six are too many
    with pytest.raises(RuntimeError, match=r"2 of 6 videos cannot be read.*bad\.mp4.*bad\.mp4"):
        [two[i] for i in (1, 4)]


def test_all_bad_is_an_error_whatever_is_allowed(broken):
    data = train_set([broken[1], broken[4]], max_bad=1.0)
    with pytest.raises(RuntimeError, match="2 of 2 videos"):
        data[0]


def test_testing_names_the_unreadable_video(broken):
    with pytest.raises(VideoError, match=r"bad\.mp4: not a readable video"):
        view_set(broken)[1]
    loader = DataLoader(view_set(broken), num_workers=1)
    with pytest.raises(VideoError, match=r"bad\.mp4: not a readable video"):
        list(loader)


def test_frames_are_decoded_at_the_transforms_size(records, monkeypatch):
    sizes = []
    frames = VideoReader.frames

    def spy(self, indices, *, short_side=None):
        sizes.append(short_side)
        return frames(self, indices, short_side=short_side)

    monkeypatch.setattr(VideoReader, "frames", spy)
    VideoDataset(records, 2, ClipSpec(2, 1), TrainTransform(8, (10, 20)), train=True)[0]
    VideoDataset(records, 2, ClipSpec(2, 1), TestTransform(8, 12), train=False)[0]
    VideoDataset(records, 2, ClipSpec(2, 1), lambda x: x[None], train=False)[0]
    assert sizes == [20, 12, None]


def test_the_cache_changes_no_item_and_decodes_no_more(records, monkeypatch):
    plain, cached = train_set(records), train_set(records, cache=True)
    views, cached_views = view_set(records, num_clips=3), view_set(records, num_clips=3, cache=True)
    torch.manual_seed(0)
    expected = [plain[i] for i in range(6)]
    expected_views = views[4][0]

    def never(*arguments: object) -> None:
        raise AssertionError("opened a file")

    monkeypatch.setattr(module, "open_reader", never)
    torch.manual_seed(0)
    for (clip, target, j), i in zip(expected, range(6), strict=True):
        found = cached[i]
        assert torch.equal(found[0], clip)
        assert (found[1], found[2]) == (target, j)
    assert torch.equal(cached_views[4][0], expected_views)


def test_the_cache_at_its_own_size_and_in_forked_workers(records):
    data = view_set(records, cache=True, cache_short_side=24)
    assert {tuple(v.shape) for v in data._cache} == {(20, 3, 24, 24)}
    found = [seen(views[0, 0]) for views, _, _ in DataLoader(data, num_workers=1)]
    assert found == [(i, [6, 8, 10, 12]) for i in range(6)]


def test_the_cache_and_bad_videos(broken):
    data = train_set(broken, cache=True, max_bad=0.5)
    assert data.bad_indices() == [1, 4]
    assert data[1][2] not in (1, 4)
    with pytest.raises(RuntimeError, match="2 of 6"):
        train_set(broken, cache=True, max_bad=0.2)
    views = view_set(broken, cache=True)  # one bad file must not end a test before it began
    assert len(views[0][0]) == len(views[2][0])
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        views[1]


def test_wrong_arguments(records):
    two = [VideoRecord(records[0].path, (0, 1), "two")]
    none = [VideoRecord(records[0].path, (), "none")]
    for call, said in (
        (lambda: train_set(records, num_clips=3), "one clip a video"),
        (lambda: view_set(records, num_clips=0), "num_clips"),
        (lambda: train_set([]), "records is empty"),
        (lambda: train_set(two), "two has 2 labels"),
        (lambda: train_set(none), "none has 0 labels"),
        (
            lambda: train_set([VideoRecord(Path("x"), (2,), "x")]),
            "x has label 2, allowed are 0 to 1",
        ),
        (lambda: train_set(records, cache_short_side=8), "cache=True"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_clips_are_normalized_as_the_transform_says(records):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    data = VideoDataset(
        records, 3, ClipSpec(4, 2), TestTransform(24, 24, mean=mean, std=std), train=False
    )
    views = data[0][0]
    for color in range(3):
        expected = (views[:, color].double() / 255 - mean[color]) / std[color]
        found = data.normalize(views)[:, color].double()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert data.normalize(views.half()).dtype == torch.float16  # a transform's own doing
