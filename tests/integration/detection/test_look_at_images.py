"""Where a detector's blocks look, in the image's own pixels, through its resizing and padding."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

import nonlocalnet as nl
from looking import look_at_the_largest
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.inspection.figure import draw_figure
from nonlocalnet.inspection.heat import heat_of
from nonlocalnet.inspection.html_page import metadata
from nonlocalnet.networks import create_model

STRIDE = 4  # of the backbone whose attention is known
BLOCK = "backbone.body.layer3.4.non_local"
HEAD = [f"roi_heads.keypoint_head.{i}.non_local" for i in (3, 7, 11, 15)]


class ReddestPlace(nn.Module):
    """A backbone that sums the red of 5 x 5 pixels, and looks at the place where it is largest."""

    out_channels = 1

    def __init__(self, subsample):
        super().__init__()
        self.stem = nn.Conv2d(3, 1, 5, STRIDE, 2, bias=False)
        self.stem.weight.data.zero_()
        self.stem.weight.data[0, 0] = 1
        self.block = nl.NonLocalBlock(1, 2, inner_channels=1, subsample=subsample, scale=1.0)
        look_at_the_largest(self.block)

    def forward(self, x):
        return self.block(self.stem(x))


def known(subsample=None):
    return FasterRCNN(
        ReddestPlace(subsample),
        num_classes=2,
        rpn_anchor_generator=AnchorGenerator(((32,),), ((1.0,),)),
        min_size=96,
        max_size=150,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_post_nms_top_n_test=5,
    )


def image_with_a_dot(size, x, y, radius=1):
    """Black, with a red square around pixel (x, y); uint8."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[0, y - radius : y + radius + 1, x - radius : x + radius + 1] = 255
    return image


# shorter sides become 96, longer ones 150 at most: enlarged, reduced, and neither, by 32 padded
SIZES = [(75, 110), (110, 75), (61, 150), (201, 130), (96, 128), (300, 333)]


@pytest.mark.parametrize("subsample", [None, 2])
@pytest.mark.parametrize("size", SIZES)
def test_point_and_attended_place_are_in_the_images_own_pixels(size, subsample):
    torch.manual_seed(0)
    model = known(subsample)
    scale = 1 / min(96 / min(size), 150 / max(size))  # pixels to one of the network's
    cell, radius = STRIDE * scale, round(1.5 * scale)
    far_x, far_y = size[1] - 1 - radius, size[0] - 1 - radius
    for x, y in ((size[1] // 2, size[0] // 3), (radius, far_y), (far_x, radius), (far_x, far_y)):
        at = (size[1] // 5, 4 * size[0] // 7)
        found = nl.look(model, image_with_a_dot(size, x, y, radius), at=at)
        numbers = found.statistics()
        # sizes are rounded down: the scale of an axis may be a hundredth more
        assert numbers["point"]["center"] == pytest.approx(
            [at[1] + 0.5, at[0] + 0.5], abs=0.51 * cell
        )
        # the window whose center is nearest to the dot's has most of it
        place = numbers["top"][0]
        assert place["center"] == pytest.approx(
            [y + 0.5, x + 0.5], abs=0.51 * (subsample or 1) * cell
        )


def test_the_grid_by_arithmetic():
    found = nl.look(known(2), torch.zeros(3, 75, 110, dtype=torch.uint8))
    # 75 x 110 by 1.28: 96 x 140, padded to 96 x 160; the stem is centerd on every fourth pixel
    # from the first, its map 24 x 40; keys are two of these
    down, across = 75 / 96, 110 / 140
    y, x = found.block.queries
    assert (y.start, y.stride, y.count) == pytest.approx((0.5 * down, 4 * down, 24))
    assert (x.start, x.stride, x.count) == pytest.approx((0.5 * across, 4 * across, 40))
    y, x = found.block.keys
    assert (y.start, y.stride, y.count) == pytest.approx((2.5 * down, 8 * down, 12))
    assert (x.start, x.stride, x.count) == pytest.approx((2.5 * across, 8 * across, 20))
    assert found.analysis.size == pytest.approx((75, 160 * across))
    assert found.image == (75, 110)


def test_the_image_is_shown_and_its_padding_striped():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 96, 130), dtype=torch.uint8)
    model = known()
    model.transform.image_mean, model.transform.image_std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    (frame,) = nl.look(model, image).frames
    assert frame.shape == (3, 96, 160)
    assert torch.equal(frame[:, :, :130], image)  # the shorter side is 96 already
    assert set(frame[:, :, 130:].unique().tolist()) == {90, 130}
    assert (frame[0, :, 130:] == frame[2, :, 130:]).all()


def test_padding_keeps_its_weight_and_is_no_distinctive_point():
    torch.manual_seed(0)
    model = known()
    nn.init.constant_(model.backbone.block.phi.weight, 0.0)  # all alike
    nn.init.normal_(model.backbone.block.theta.weight)
    nn.init.normal_(model.backbone.block.phi.weight)
    image = torch.randint(0, 256, (3, 75, 110), dtype=torch.uint8)
    found = nl.look(model, image, at=(109, 74))
    assert float(found.attention.weights.sum()) == pytest.approx(1)
    beyond = found.attention.keys[1].cell(39)
    assert beyond[1] > 110 + 3 * STRIDE  # 20 padded pixels are nearly 16 of the image's
    summary, points = found.summaries["backbone.block"]
    assert summary.sampled == 24 * 35  # centers at (0.5 + 4 i) · 110/140 up to 110
    assert len(points) > 1
    for point in points:
        assert found.block.queries[1].start + point.query[1] * found.block.queries[1].stride <= 110


def test_pictures_and_page_lie_where_the_numbers_say():
    size, (x, y) = (110, 75), (60, 20)
    found = nl.look(known(), image_with_a_dot(size, x, y), at=(9, 100))
    place = found.statistics()["top"][0]["center"]
    shown = 96 / 75  # pixels of the picture to one of the image
    figure = draw_figure(found.frames, found.attention, top=1)
    (arrow,) = (a for a in figure.get_children() if type(a).__name__ == "ConnectionPatch")
    assert arrow.xy2 == pytest.approx((place[1] * shown, place[0] * shown), rel=0.01)
    lit = np.argwhere(heat_of(found.attention, found.frames)[0] > 0.5)
    assert lit.mean(0) + 0.5 == pytest.approx(arrow.xy2[::-1], abs=0.5)
    told = metadata(found)  # the page has the image's own pixels
    assert told["picture"] == {"count": 1, "height": pytest.approx(110 * 160 / 140), "width": 75}
    assert told["start"]["at"][1:] == found.statistics()["point"]["center"]
    row, column = (
        int(found.attention.weights.argmax()) // 24,
        found.attention.weights.argmax() % 24,
    )
    down, across = told["blocks"][0]["keys"][1:]
    assert down["start"] + row * down["stride"] == pytest.approx(place[0])
    assert across["start"] + int(column) * across["stride"] == pytest.approx(place[1])


@pytest.fixture(scope="module")
def mask_rcnn():
    torch.manual_seed(0)
    return with_weights(create_model("mask_rcnn_r50_fpn_nl1", **SMALL))


@pytest.fixture(scope="module")
def keypoint_rcnn():
    torch.manual_seed(0)
    return with_weights(create_model("keypoint_rcnn_r50_fpn_nl5", **SMALL))


SMALL = {
    "num_classes": 2,
    "min_size": 96,
    "max_size": 150,
    "rpn_post_nms_top_n_test": 20,
    "box_detections_per_img": 3,
    "box_score_thresh": 0.0,
}
ONE = {"box_detections_per_img": 1}


def with_weights(model):
    for block in model.modules():
        if isinstance(block, nl.NonLocalBlock):
            nn.init.normal_(block.theta.weight, std=0.01)
            nn.init.normal_(block.phi.weight, std=0.01)
    model.info = WeightsInfo(model.config, ["background", "thing"])
    return model


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(1)
    small = torch.randint(0, 256, (1, 3, 8, 11), dtype=torch.uint8).float()
    return nn.functional.interpolate(small, (75, 110), mode="bilinear")[0].byte()


def inputs_of(model, image):
    """What the blocks are given when the detector is called as anybody calls it."""
    seen, handles = {}, []
    for name, block in model.named_modules():
        if isinstance(block, nl.NonLocalBlock):
            handles.append(
                block.register_forward_hook(lambda _, x, y, name=name: seen.update({name: x[0]}))
            )
    with torch.no_grad():
        (detections,) = model.eval()([image / 255])
    for handle in handles:
        handle.remove()
    return seen, detections


def weights_of(block, x, row, column):
    """softmax(θ_i · φ_j / sqrt(d)) of one position, with 1x1 convolutions as products."""
    keys = x if block.subsample is None else nn.functional.max_pool2d(x, 2)
    theta = block.theta.weight[:, :, 0, 0] @ x[0, :, row, column] + block.theta.bias
    phi = block.phi.weight[:, :, 0, 0] @ keys[0].flatten(1) + block.phi.bias[:, None]
    return (theta @ phi / block.inner_channels**0.5).softmax(0).view(keys.shape[2:])


@torch.no_grad()
def test_rows_are_those_of_the_detector_itself(mask_rcnn, image):
    mask_rcnn.train()
    found = nl.look(mask_rcnn, image, at=(70, 30))
    assert mask_rcnn.training
    assert mask_rcnn.roi_heads.training
    # 96 x 140 of the network's pixels, a position every 16 from the middle of the first
    assert found.attention.block == BLOCK
    assert found.attention.query == (
        round((30.5 * 96 / 75 - 0.5) / 16),
        round((70.5 * 140 / 110 - 0.5) / 16),
    )
    seen, detections = inputs_of(mask_rcnn, image)
    expected = weights_of(mask_rcnn.get_submodule(BLOCK), seen[BLOCK], *found.attention.query)
    torch.testing.assert_close(found.attention.weights, expected)
    assert expected.shape == (3, 5)
    # the picture is prepared and convolved in another order of sums
    score = pytest.approx(float(detections["scores"][0]), rel=1e-5)
    assert found.prediction == [("thing", score)]
    y, x = found.attention.queries
    assert (y.start, y.stride, y.count) == pytest.approx((0.5 * 75 / 96, 16 * 75 / 96, 6))
    assert (x.start, x.stride, x.count) == pytest.approx((0.5 * 110 / 140, 16 * 110 / 140, 10))


def test_bytes_floats_and_files_are_the_same(mask_rcnn, image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    one, *others = (
        nl.look(mask_rcnn, given, at=(70, 30)) for given in (image, image / 255, path, str(path))
    )
    for other in others:
        torch.testing.assert_close(other.attention.weights, one.attention.weights)
        assert (other.frames.int() - one.frames.int()).abs().max() <= 1
    assert other.title == "a.png"


BOXES = torch.tensor([[8.0, 16, 62, 90], [40, 6, 130, 76]])  # the network's pixels


@pytest.fixture
def detects(keypoint_rcnn, monkeypatch):
    """Makes the detector find the first boxes, the first one most surely."""

    def set_boxes(count):
        found = [BOXES[:count]], [torch.linspace(0.9, 0.5, count)], [torch.ones(count).long()]
        monkeypatch.setattr(
            keypoint_rcnn.roi_heads, "postprocess_detections", lambda *_: found, raising=True
        )

    return set_boxes


@torch.no_grad()
@pytest.mark.parametrize(("at", "number"), [(None, 0), ((47, 40), 0), ((70, 40), 1)])
def test_blocks_in_the_head_look_at_the_surest_region_of_the_point(
    keypoint_rcnn, image, detects, at, number
):
    detects(2)
    seen, detections = inputs_of(keypoint_rcnn, image)
    found = nl.look(keypoint_rcnn, image, at=at)
    assert list(found.analysis.blocks) == [BLOCK, *HEAD]
    assert found.block.name == HEAD[-1]
    assert found.region == pytest.approx(detections["boxes"][number].tolist(), rel=1e-4)
    x1, y1, x2, y2 = found.region
    point_y, point_x = found.at or (40.5, 30.5)
    for name in HEAD:
        y, x = found.analysis.block(name).queries
        assert (y.count, y.cell(0)[0], y.cell(13)[1]) == pytest.approx((14, y1, y2))
        assert (x.count, x.cell(0)[0], x.cell(13)[1]) == pytest.approx((14, x1, x2))
        row = found.analysis.attention((point_y, point_x), block=name)
        assert row.query == (
            int((point_y - y1) / (y2 - y1) * 14),
            int((point_x - x1) / (x2 - x1) * 14),
        )
        expected = weights_of(
            keypoint_rcnn.get_submodule(name), seen[name][number : number + 1], *row.query
        )
        torch.testing.assert_close(row.weights, expected, atol=1e-4, rtol=1e-3)  # of 2 regions


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_region_the_head_is_refused_and_the_backbone_shown(
    keypoint_rcnn, image, detects, count
):
    detects(count)
    found = nl.look(keypoint_rcnn, image, at=(109, 74))
    assert list(found.analysis.blocks) == [BLOCK]
    assert found.region is None
    said = rf"{HEAD[0]} looks at .* found nothing at \(109, 74\): choose another point"
    with pytest.raises(ValueError, match=said):
        nl.look(keypoint_rcnn, image, at=(109, 74), block=HEAD[0])
    if not count:
        with pytest.raises(ValueError, match="this detector found nothing: choose"):
            nl.look(keypoint_rcnn, image, block=HEAD[0])


def test_keys_of_the_head_may_be_pooled(image):
    model = create_model("keypoint_rcnn_r50_fpn_nl4", **SMALL | ONE, head_subsample=3)
    found = nl.look(with_weights(model), image)
    assert list(found.analysis.blocks) == HEAD
    x1, y1, x2, y2 = found.region
    y, x = found.block.keys
    # four cells of three positions in each direction; the last two positions have no key
    assert (y.count, y.cell(0)[0], y.cell(3)[1]) == pytest.approx((4, y1, y1 + (y2 - y1) * 12 / 14))
    assert (x.count, x.cell(0)[0], x.cell(3)[1]) == pytest.approx((4, x1, x1 + (x2 - x1) * 12 / 14))


def test_the_region_is_outlined(keypoint_rcnn, image, detects):
    plain, outlined = (
        (detects(count), nl.look(keypoint_rcnn, image).frames[0].int())[1] for count in (0, 1)
    )
    changed = (plain - outlined).abs().sum(0).nonzero()
    assert changed.amin(0).tolist() == pytest.approx([16, 8], abs=2)
    assert changed.amax(0).tolist() == pytest.approx([90, 62], abs=2)
    assert len(changed) < 4 * 2 * (74 + 54)  # its border alone


def test_all_files(mask_rcnn, image, tmp_path):
    found = nl.look(mask_rcnn, image, at=(70, 30), title="one")
    for ending in ("html", "png", "json"):
        assert found.save(tmp_path / f"a.{ending}").stat().st_size > 1000
    assert "The striped border is padding" in (tmp_path / "a.html").read_text()
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["image"] == [75, 110]
    assert numbers["block"] == BLOCK
    with pytest.raises(ValueError, match=r"a\.mp4: only a video makes a film"):
        found.save(tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (torch.rand(3, 4, 32, 32), {}, r"takes an image \(3, H, W\); got \(3, 4, 32, 32\)"),
        (torch.rand(1, 32, 32), {}, r"takes an image \(3, H, W\)"),
        (torch.rand(3, 0, 32), {}, r"takes an image \(3, H, W\)"),
        (255 * torch.rand(3, 32, 32), {}, "uint8, or float from 0 to 1"),
        (torch.full((3, 32, 32), torch.nan), {}, "uint8, or float from 0 to 1"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), {}, "uint8, or float from 0 to 1"),
        (torch.rand(3, 1, 151), {}, "1 x 151 is too long a strip"),
        (torch.rand(3, 32, 40), {"at": (1, 2, 3)}, r"at must be \(x, y\) here"),
        (
            torch.rand(3, 32, 40),
            {"at": (40, 2)},
            r"within 32 x 40 \(height x width\); got \(40, 2\)",
        ),
        (torch.rand(3, 32, 40), {"block": "layer3"}, "number or module path: 1 .backbone.block."),
        (torch.rand(3, 32, 40), {"crop": True}, "whole images: leave out moment and crop"),
        (torch.rand(3, 32, 40), {"moment": 0.1}, "whole images: leave out moment and crop"),
        ("some.mp4", {}, "some.mp4 is a video, and this network detects in images"),
    ],
)
def test_what_cannot_be_shown_is_said(given, options, said):
    with pytest.raises(ValueError, match=said):
        nl.look(known(), given, **options)


def test_files_that_cannot_be_looked_at(tmp_path):
    with pytest.raises(CocoError, match="no such image"):
        nl.look(known(), tmp_path / "gone.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(CocoError, match="not a readable image"):
        nl.look(known(), tmp_path / "broken.jpg")
    video = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x1", crop=32)
    with pytest.raises(ValueError, match="this network takes videos"):
        nl.look(video, tmp_path / "a.JPG")
    bare = known()
    bare.backbone.block = nn.Identity()
    with pytest.raises(ValueError, match="no non-local block in its backbone or keypoint head"):
        nl.look(bare, torch.rand(3, 32, 32))
