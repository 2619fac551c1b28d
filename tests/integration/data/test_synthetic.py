from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.synthetic import (
    COLORS,
    generate_same_color,
    write_same_color,
)
from nonlocalnet.data.video import write as encode
from nonlocalnet.data.video.reader import decode_all, probe
from nonlocalnet.data.video.write import write_video


def colors_of(frames: np.ndarray) -> tuple[int, int]:
    """Find the two squares' colors by looking: pixels that are not gray."""
    found = []
    for i in (0, -1):
        colored = frames[i][np.ptp(frames[i].astype(int), axis=2) > 60]
        mean = colored.astype(float).mean(axis=0)
        found.append(int(np.argmin(np.abs(np.array(COLORS) - mean).sum(axis=1))))
    return found[0], found[1]


def test_the_label_is_what_the_frames_show():
    for seed in range(60):
        frames, label = generate_same_color(seed)
        assert frames.shape == (8, 32, 32, 3)
        assert frames.dtype == np.uint8
        colored = np.ptp(frames.astype(int), axis=3) > 0
        assert colored.sum(axis=(1, 2)).tolist() == [64, 64, 0, 0, 0, 0, 64, 64]
        first, last = colors_of(frames)
        assert label == (first == last)


def test_no_part_of_a_video_tells_its_label():
    counts = {0: (Counter(), Counter()), 1: (Counter(), Counter())}
    n = 3000
    for seed in range(n):
        frames, label = generate_same_color((7, seed))
        for counter, color in zip(counts[label], colors_of(frames), strict=True):
            counter[color] += 1
    total = sum(counts[1][0].values())
    assert abs(total - n / 2) < 5 * np.sqrt(n / 4)
    for label in (0, 1):
        for counter in counts[label]:
            m = sum(counter.values())
            expected, spread = m / 6, np.sqrt(m * 5 / 36)
            assert all(abs(counter[c] - expected) < 5 * spread for c in range(6))


def test_squares_reach_the_borders_and_all_pairs_occur():
    tops, pairs = set(), set()
    for seed in range(1500):
        frames, label = generate_same_color(seed, label=0)
        assert label == 0
        rows = np.flatnonzero((np.ptp(frames[0].astype(int), axis=2) > 0).any(axis=1))
        tops.add(int(rows[0]))
        pairs.add(colors_of(frames))
    assert tops == set(range(25))
    assert pairs == {(a, b) for a in range(6) for b in range(6) if a != b}


def test_colors_are_far_apart():
    c = np.array(COLORS, dtype=float)
    distance = np.linalg.norm(c[:, None] - c[None], axis=2) + 1e9 * np.eye(6)
    assert len(c) == 6
    assert distance.min() > 120


def test_wrong_label_is_refused():
    with pytest.raises(ValueError, match="label"):
        generate_same_color(0, label=2)


def test_flat_colors_survive_the_file(tmp_path: Path):
    frames = np.stack([np.full((32, 32, 3), color, np.uint8) for color in COLORS])
    write_video(tmp_path / "a.mp4", frames, fps=5)
    back = decode_all(tmp_path / "a.mp4").permute(0, 2, 3, 1).numpy()
    assert np.abs(back.astype(int) - frames).max() <= 6
    info = probe(tmp_path / "a.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (6, 32, 32, 5.0)


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_other_codecs_and_containers(tmp_path: Path, name: str):
    frames, _ = generate_same_color(0)
    write_video(tmp_path / name, frames, codec="mpeg4")
    assert probe(tmp_path / name).num_frames == 8


def test_the_data_set_on_disk(tmp_path: Path):
    folder = write_same_color(tmp_path / "demo", 9, seed=5)
    assert folder == tmp_path / "demo"
    found = read_dataset(folder)
    records, classes = found.train, found.classes
    assert classes == ["different", "same"]
    assert Counter(r.labels[0] for r in records) == {0: 5, 1: 4}
    for record in records:
        frames = decode_all(record.path).permute(0, 2, 3, 1).numpy()
        first, last = colors_of(frames)
        assert record.labels[0] == (first == last)
    again = write_same_color(tmp_path / "again", 9, seed=5)
    other = write_same_color(tmp_path / "other", 9, seed=6)
    for record in records:
        frames = decode_all(record.path).int()
        # x264 has once written other bytes of the same frames, on a busy machine
        assert (frames - decode_all(again / record.name)).abs().float().mean() < 0.5
        assert (frames - decode_all(other / record.name)).abs().float().mean() > 1


def test_one_video_is_too_few(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 2"):
        write_same_color(tmp_path, 1, seed=0)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 31, 32, 3), np.uint8),
        np.zeros((2, 32, 33, 3), np.uint8),
        np.zeros((2, 32, 32), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
    ],
)
def test_write_video_refuses(tmp_path: Path, frames: np.ndarray):
    with pytest.raises(ValueError, match=r"even sizes|uint8"):
        write_video(tmp_path / "a.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_and_spares_the_old(tmp_path: Path, monkeypatch):
    frames, _ = generate_same_color(0)
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(encode.np, "ascontiguousarray", fail)
    with pytest.raises(OSError, match="disk full"):
        write_video(target, frames)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert target.read_bytes() == b"old"
