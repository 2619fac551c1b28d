import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from looking import BrightestPlace, clip_with_a_pixel
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import Views
from nonlocalnet.data.transforms import normalize
from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.data.video.write import write_video
from nonlocalnet.inspection.clip import decode_clip
from nonlocalnet.inspection.scene import View


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=3, clip="4x2", crop=32)
    model.fc.weight.data.normal_()
    model.info = WeightsInfo(model.config, ["a", "b", "c"], short_side=32)
    return model


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 frames of 64 x 96; frame i is 10 i bright."""
    path = tmp_path_factory.mktemp("look") / "wide.mp4"
    shades = np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    write_video(path, np.broadcast_to(shades, (20, 64, 96, 3)), fps=10)
    return path


@pytest.mark.parametrize(
    ("moment", "start"),
    [
        *((0, 0), (0.5, 6), (1, 12)),
        # clips of 8 frames at 10 a second: the middle is 0.4 s after the start
        *(("0s", 0), ("0.4s", 0), ("0.5s", 1), ("1.04s", 6), ("1.6s", 12), ("2.0s", 12)),
    ],
)
def test_the_clip_lies_in_the_video(model, video, moment, start):
    found = nl.look(model, video, moment=moment)
    assert found.view.indices == [start + 2 * i for i in range(4)]
    assert found.times == [index / 10 for index in found.view.indices]
    assert found.frames.shape == (4, 3, 32, 48)  # whole frames, at the network's short side
    shades = found.frames.float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(shades, 10.0 * torch.tensor(found.view.indices), atol=4, rtol=0)


def test_the_point_is_said_in_the_videos_pixels(model, video):
    # pixel (x, y) = (70, 20) of 96 x 64, halved: (35.25, 10.25); cells of 8 pixels from 2.5
    whole = nl.look(model, video, at=(3, 70, 20)).attention
    assert whole.query == (1, 1, 4)
    # the center crop leaves out (48 - 32) / 2 = 8 pixels on the left
    crop = nl.look(model, video, at=(3, 70, 20), crop=True).attention
    assert crop.query == (1, 1, 3)
    with pytest.raises(
        ValueError, match=r"within 4 x 32 x 32 \(frames x height x width\) of what the network sees"
    ):
        nl.look(model, video, at=(3, 2, 20), crop=True)


def test_places_by_arithmetic():
    view = View(scale=(0.5, 0.25), corner=(3, 7), indices=[0], fps=10)
    assert view.place((2, 100, 40)) == (2.5, 40.5 / 2 - 3, 100.5 / 4 - 7)


def test_the_prediction_is_that_of_the_clip(model, video):
    found = nl.look(model, video)
    clip, _ = decode_clip(video, model.info)
    model.eval()
    with torch.no_grad():
        p = model.probabilities(normalize(clip)[None])[0]
    assert found.prediction[0] == ("abc"[int(p.argmax())], pytest.approx(float(p.max())))
    assert len(found.prediction) == 3


@pytest.mark.parametrize("views", [Views(), Views(crop=28, rule="tsm")], ids=str)
def test_a_clip_that_is_read_is_what_predict_classifies(model, video, views):
    other = copy.copy(model)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    other.info = replace(model.info, mean=mean, std=std, views=views)
    clip = nl.read_clip(video, other)
    assert clip.shape == (1, 3, 4, *[views.crop or 32] * 2)
    with torch.no_grad():
        p = other.probabilities(clip)[0]
    found = dict(nl.predict(other, video, num_clips=1))
    assert found == pytest.approx(dict(zip("abc", p.tolist(), strict=True)))


def test_a_clip_is_read_whole_at_a_moment_and_errors_say_what_to_do(model, video):
    clip = nl.read_clip(video, model, moment="1.04s", crop="whole")
    assert clip.shape == (1, 3, 4, 32, 48)
    assert torch.equal(clip[0], normalize(decode_clip(video, model.info, moment="1.04s")[0]))
    with pytest.raises(ValueError, match=r"got crop 40 and short_side 32"):
        nl.read_clip(video, model, crop=40)
    with pytest.raises(ValueError, match=r"load it with nl\.load"):
        nl.read_clip(video, torch.nn.Linear(1, 1))
    detector = torch.nn.Linear(1, 1)
    detector.config, detector.info = {"name": "mask_rcnn_tiny_fpn"}, model.info
    with pytest.raises(ValueError, match="this one takes images"):
        nl.read_clip(video, detector)


def test_bytes_and_normalized_clips_are_the_same(model):
    clip = torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    one = nl.look(model, clip, at=(1, 2, 3))
    other = nl.look(model, normalize(clip), at=(1, 2, 3))
    assert torch.equal(one.frames, other.frames)
    torch.testing.assert_close(one.attention.weights, other.attention.weights)


def test_a_block_in_another_network_sees_images():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 8, 3, 2, 1))
    nl.add_non_local(net, ["0"])
    found = nl.look(net, torch.rand(3, 16, 24), at=(20, 5))
    # positions on every second pixel from the first: x 20.5 is nearest to 20.5, y 5.5 to 6.5 or 4.5
    assert found.attention.query == (3, 10)
    assert found.frames.shape == (1, 3, 16, 24)
    assert found.prediction == []
    assert found.times is None


def test_a_sequence_is_drawn_as_a_strip():
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3, 2, 1), nl.NonLocalBlock(8, 1))
    found = nl.look(net, torch.rand(4, 50), at=(31,))
    assert found.attention.query == (16,)  # at 32.5, or 30.5: the later of two that are as near
    assert found.frames.shape[0] == 1
    assert found.frames.shape[3] % 50 == 0


def test_without_a_point_the_most_distinctive_one_is_chosen(model, video):
    found = nl.look(model, video)
    best = found.summaries[found.block.name][1][0]
    assert found.attention.query == best.query
    assert found.evenly or best.reason in found.reason


def test_statistics_are_plain_values_and_say_where_the_heaviest_keys_are():
    found = nl.look(BrightestPlace(), clip_with_a_pixel(1, 11, 13), at=(0, 3, 3), top=2)
    numbers = found.statistics()
    assert numbers["top"][0]["center"] == [1.5, 10.5, 14.5]
    assert numbers["top"][0]["share"] == pytest.approx(1)
    assert numbers["point"]["places"] == pytest.approx(1)
    assert numbers["point"]["same_frame"] == pytest.approx(0, abs=1e-6)
    assert numbers["point"]["frames"] == pytest.approx(1)
    assert numbers["point"]["why"] == "the requested point"
    assert numbers["blocks"]["block"]["common"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("clip", "options", "said"),
    [
        (torch.rand(1, 3, 4, 32, 32), {}, "without the batch"),
        (torch.rand(4, 4, 32, 32), {}, "pictures have 3 colors"),
        (torch.rand(3, 4, 32, 32), {"at": (0, 1)}, r"at must be \(frame, x, y\)"),
        (
            torch.rand(3, 4, 32, 32),
            {"at": (4, 0, 0)},
            r"within 4 x 32 x 32 \(frames x height x width\); got",
        ),
        *(
            (
                torch.rand(3, 4, 32, 32),
                {"block": block},
                r"number or module path: 1 \(res3.non_local0\), 2 \(res3.non_local1\); got ",
            )
            for block in ("res9", 0, 3, -1, "2")
        ),
    ],
)
def test_what_cannot_be_shown_is_said(model, clip, options, said):
    with pytest.raises(ValueError, match=said):
        nl.look(model, clip, **options)


def test_a_block_by_its_number_or_path(model):
    clip = torch.rand(3, 4, 32, 32)
    for block, name, number in (
        (1, "res3.non_local0", 1),
        ("res3.non_local1", None, 2),
        (None, 0, 2),
    ):
        found = nl.look(model, clip, block=block)
        assert found.block.name == (name or "res3.non_local1")
        assert found.layer == (number, 2)


@pytest.mark.parametrize("moment", [-0.1, 1.5, float("nan"), "1.5", "1.5 sec", "s", "nans", "0x1s"])
def test_moments_that_are_none(model, video, moment):
    with pytest.raises(ValueError, match=r"from 0 \(first clip\) to 1 \(last\), or seconds"):
        nl.look(model, video, moment=moment)


@pytest.mark.parametrize("moment", ["2.1s", "-1s", "infs"])
def test_moments_outside_the_video(model, video, moment):
    with pytest.raises(ValueError, match=r"in the video, which lasts 2\.00 s; got"):
        nl.look(model, video, moment=moment)


def test_files_that_cannot_be_looked_at(model, tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        nl.look(model, tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match=r"load it with nl\.load"):
        nl.look(BrightestPlace(), "some.mp4")
    with pytest.raises(ValueError, match="no non-local block"):
        nl.look(torch.nn.Conv3d(3, 3, 1), torch.rand(3, 4, 8, 8))
