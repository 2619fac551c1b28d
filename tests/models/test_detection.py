import subprocess
import sys

import pytest
import torch
from torchvision.models.detection import (
    KeypointRCNN,
    MaskRCNN,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.models.detection import create_detector, list_detectors, load_detector_weights

SMALL = {"min_size": 96, "max_size": 128, "box_score_thresh": 0.0, "box_detections_per_img": 6}


def blocks_of(network):
    return {name: m for name, m in network.named_modules() if isinstance(m, NonLocalBlock)}


def filled_at_random(network):
    """A state of torchvision's layout, with numbers that give detections."""
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.fill_(1.0)
        elif tensor.is_floating_point():
            fan = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * fan**-0.5)
        if ".bn" in name and name.endswith("weight"):
            tensor.fill_(0.5)
    return state


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
@torch.no_grad()
def test_with_torchvisions_weights_detections_are_torchvisions_bit_for_bit(kind):
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    theirs = (MaskRCNN if kind == "mask" else KeypointRCNN)(
        backbone, 91 if kind == "mask" else 2, **SMALL
    ).eval()
    state = filled_at_random(theirs)
    theirs.load_state_dict(state)
    name = f"{kind}_rcnn_r50_fpn_nl{1 if kind == 'mask' else 5}"
    ours = create_detector(name, **SMALL).eval()
    left = load_detector_weights(ours, state)
    assert len(blocks_of(ours)) == (1 if kind == "mask" else 5)
    assert {key.split(".non_local.")[0] for key in left} == {
        path.removesuffix(".non_local") for path in blocks_of(ours)
    }
    image = torch.rand(3, 100, 120, generator=torch.Generator().manual_seed(1))
    expected, found = theirs([image])[0], ours([image])[0]
    assert len(expected["boxes"]) > 0
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
    # and the test can fail: a block that is no identity moves them
    block = next(iter(blocks_of(ours).values()))
    torch.nn.init.normal_(block.w_z.weight)
    moved = ours([image])[0]
    assert any(
        moved[key].shape != value.shape or not torch.equal(moved[key], value)
        for key, value in expected.items()
    )


@pytest.mark.parametrize("builder", [maskrcnn_resnet50_fpn, keypointrcnn_resnet50_fpn])
def test_the_layout_is_torchvisions(builder):
    theirs = builder(weights=None, weights_backbone=None).state_dict()
    name = "mask_rcnn_r50_fpn" if "mask" in builder.__name__ else "keypoint_rcnn_r50_fpn"
    assert load_detector_weights(create_detector(name), theirs) == []


@pytest.mark.parametrize("name", list_detectors())
def test_rows(name):
    network = create_detector(name)
    found = blocks_of(network)
    expected = []
    if name.endswith(("_nl1", "_nl5")):
        last = {"r50": 6, "r101": 23, "x152": 36, "tiny": 2}[name.split("_")[2]] - 1
        # right before the last residual block: after the one before it
        expected.append(f"backbone.body.layer3.{last - 1}.non_local")
    if name.endswith(("_nl4", "_nl5")):
        # 8 convolutions, each with its ReLU: after the 2nd, 4th, 6th and 8th
        expected += [f"roi_heads.keypoint_head.{k}.non_local" for k in (3, 7, 11, 15)]
    assert list(found) == expected
    for path, block in found.items():
        wide = (512, 1024) if "tiny" not in name else (64, 256)
        assert block.channels == wide["head" not in path]
        assert block.inner_channels == block.channels // 2
        assert not block.w_z.weight.any()


def test_resnext_152_is_32x8d():
    body = create_detector("mask_rcnn_x152_fpn").backbone.body
    assert [len(body[f"layer{i}"]) for i in (1, 2, 3, 4)] == [3, 8, 36, 3]
    assert body.layer1[0].conv2.groups == 32
    assert body.layer1[0].conv2.out_channels == 256  # 32 groups of 8


@pytest.mark.parametrize("name", ["mask_rcnn_tiny_fpn_nl1", "keypoint_rcnn_tiny_fpn_nl5"])
def test_the_tiny_rows_learn_in_every_part(name):
    torch.manual_seed(0)
    network = create_detector(name, num_classes=3, min_size=64, trainable_stages=5)
    for block in blocks_of(network).values():
        torch.nn.init.normal_(block.w_z.weight, std=0.01)
    target = {"boxes": torch.tensor([[8.0, 8.0, 50.0, 40.0]]), "labels": torch.tensor([2])}
    if "mask" in name:
        target["masks"] = torch.zeros(1, 64, 80, dtype=torch.uint8)
        target["masks"][:, 8:40, 8:50] = 1
    else:
        target["keypoints"] = torch.tensor([20.0, 20.0, 2.0]).expand(1, 17, 3)
    losses = network([torch.rand(3, 64, 80)], [target])
    assert len(losses) == 5
    sum(losses.values()).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    head = network.roi_heads.mask_head if "mask" in name else network.roi_heads.keypoint_head
    convolutions = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    blocks = 4 * 4 if "mask" not in name else 0  # theta, phi, g and W_z
    assert len(convolutions) - blocks == (4 if "mask" in name else 8)
    assert sum(p.numel() for p in network.parameters()) < 3e6
    found = network.eval()([torch.rand(3, 64, 80)])[0]
    assert found["masks" if "mask" in name else "keypoints"].shape[1:] in {(1, 64, 80), (17, 3)}


def test_tiny_rows_take_other_numbers_of_keypoints():
    network = create_detector("keypoint_rcnn_tiny_fpn", num_keypoints=5)
    assert network.roi_heads.keypoint_predictor.out_channels == 5


def test_the_table_needs_torch_only():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from nonlocalnet.models.detection import list_detectors; print(len(list_detectors()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(list_detectors())


def test_options():
    network = create_detector(
        "keypoint_rcnn_r50_fpn_nl5",
        norm="batch",
        block_norm="batch",
        subsample=None,
        head_place="before_relu",
        head_inner_channels=64,
        head_subsample=2,
        pairwise="dot_product",
        trainable_stages=5,
    )
    found = blocks_of(network)
    heads = [path for path in found if "head" in path]
    assert heads == [f"roi_heads.keypoint_head.{k}.non_local" for k in (2, 6, 10, 14)]
    assert {found[path].inner_channels for path in heads} == {64}
    assert {found[path].subsample for path in heads} == {(2, 2)}
    backbone = found["backbone.body.layer3.4.non_local"]
    assert backbone.subsample is None
    assert backbone.pairwise == "dot_product"
    assert isinstance(network.backbone.body.bn1, torch.nn.BatchNorm2d)
    assert all(p.requires_grad for p in network.parameters())
    again = create_detector(**network.config)
    assert again.state_dict().keys() == network.state_dict().keys()


def test_frozen_stages_do_not_learn_and_blocks_do():
    network = create_detector("mask_rcnn_r50_fpn_nl1")
    learns = {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any(
        name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in learns
    )
    assert "backbone.body.layer3.4.non_local.theta.weight" in learns


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "mask_rcnn_r50_fpn_nl2"}, "did you mean 'mask_rcnn_r50_fpn_nl1'"),
        ({"name": "mask_rcnn_r50_fpn", "norm": "group"}, "norm must be one of 'frozen'"),
        ({"name": "mask_rcnn_r50_fpn", "num_classes": 1}, "counts the background"),
        ({"name": "mask_rcnn_r50_fpn", "trainable_stages": 6}, "from 0 to 5"),
        ({"name": "keypoint_rcnn_r50_fpn_nl4", "head_place": "inside"}, "head_place must be"),
        ({"name": "mask_rcnn_r50_fpn", "box_nms_tresh": 0.5}, "did you mean 'box_nms_thresh'"),
        ({"name": "mask_rcnn_r50_fpn", "trainable_stage": 5}, "did you mean 'trainable_stages'"),
        ({"name": "mask_rcnn_r50_fpn", "num_keypoints": 17}, "option must be one of"),
    ],
)
def test_wrong_choices(arguments, said):
    with pytest.raises(ValueError, match=said):
        create_detector(**arguments)


def test_weights_that_do_not_fit_leave_the_detector_as_it_was():
    network = create_detector("mask_rcnn_r50_fpn", num_classes=3)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    other = create_detector("mask_rcnn_r50_fpn", num_classes=4).state_dict()
    with pytest.raises(ValueError, match=r"is \(\d+.* here and \d+ more: num_classes may differ"):
        load_detector_weights(network, other)
    keypoints = create_detector("keypoint_rcnn_r50_fpn").state_dict()
    with pytest.raises(ValueError, match=r"these weights lack .* of the same kind and depth"):
        load_detector_weights(network, keypoints)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
