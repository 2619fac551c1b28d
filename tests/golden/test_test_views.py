"""Frames and crops of tests, as the samplers of MMAction2 and TSM choose them."""

import json

import pytest

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data import sampling


@pytest.fixture(scope="module")
def given(oracle):
    return json.loads((oracle / "families/sampling.json").read_text())


@pytest.mark.parametrize(
    ("name", "clip", "clips"),
    [
        ("tsm_8", "8seg", 1),
        ("tsm_8_twice", "8seg", 2),
        ("slowonly_4x16", "4x16", 10),
        ("slowonly_8x8", "8x8", 10),
        ("i3d_32x2", "32x2", 10),
    ],
)
def test_clips_are_mmaction2s(given, name, clip, clips):
    spec = ClipSpec.parse(clip)
    for frames, expected in given["mmaction2_frames"]["cases"][name].items():
        found = sampling.test_clips(int(frames), spec, clips, "mmaction2")
        if spec.rate is None:  # its clips are single frames
            found = [[index] for indices in found for index in indices]
        assert [row[: len(expected[0])] for row in found] == expected


@pytest.mark.parametrize(
    ("name", "clip", "clips"), [("uniform", "8seg", 1), ("twice", "8seg", 2), ("dense", "8x8", 10)]
)
def test_clips_are_tsms(given, name, clip, clips):
    for frames, expected in given["mit_tsm_frames"]["cases"][name].items():
        found = sampling.test_clips(int(frames), ClipSpec.parse(clip), clips, "tsm")
        assert [[index + 1 for index in row] for row in found] == expected


def test_crops_are_mmaction2s(given):
    for name, expected in given["mmaction2_crops"]["cases"].items():
        kind, _, size = name.partition(" of ")
        crop, (width, height) = int(kind.split("_")[1]), map(int, size.split("x"))
        count = 3 if kind.startswith("Three") else 5
        places = sampling.crop_offsets(height, width, crop, count, "mmaction2")
        boxes = [[x, y, x + crop, y + crop] for y, x in places]
        assert sorted(boxes * (1 if count == 3 else 2)) == sorted(expected)


def test_crops_are_tsms(given):
    for size, expected in given["mit_tsm_full_res"]["cases"].items():
        width, height = map(int, size.split("x"))
        places = sampling.crop_offsets(height, width, 256, 3, "tsm")
        assert sorted([x, y] for y, x in places) == sorted(expected)
