import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import (
    KeypointRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.checkpoints.load import load, load_weights
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.networks import create_model, list_models

SMALL = {"min_size": 96, "max_size": 128, "box_score_thresh": 0.0, "box_detections_per_img": 6}
SMALL |= {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 50}


def on_meta(name, **options):
    """Build a network whose numbers do not matter."""
    with torch.device("meta"):
        return create_model(name, **options)


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


@pytest.mark.parametrize("kind", ["mask", pytest.param("keypoint", marks=pytest.mark.slow)])
@torch.no_grad()
def test_with_torchvisions_weights_detections_are_torchvisions_bit_for_bit(kind, tmp_path):
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    theirs = (MaskRCNN if kind == "mask" else KeypointRCNN)(
        backbone, 91 if kind == "mask" else 2, **SMALL
    ).eval()
    torch.save(filled_at_random(theirs), tmp_path / "theirs.pth")
    name = f"{kind}_rcnn_r50_fpn_nl{1 if kind == 'mask' else 5}"
    ours = create_model(name, **SMALL).eval()
    left = load_weights(ours, tmp_path / "theirs.pth", new_blocks=True).left
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


@pytest.mark.parametrize(
    "builder",
    [pytest.param(maskrcnn_resnet50_fpn, marks=pytest.mark.slow), keypointrcnn_resnet50_fpn],
)
def test_a_file_of_torchvisions_says_what_it_is(builder, tmp_path):
    theirs = builder(weights=None, weights_backbone=None)
    for tensor in theirs.state_dict().values():
        if tensor.ndim == 1:  # of norms; the others are random already
            tensor.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.warns(UserWarning, match=r"norm_eps=0\.0 is assumed: as torchvision's COCO_V1"):
        found = load(tmp_path / "theirs.pth")
    kind = "mask" if "mask" in builder.__name__ else "keypoint"
    assert found.config["name"] == f"{kind}_rcnn_r50_fpn"
    assert found.info.classes == []  # two or 91 classes may be anybody's
    assert found.backbone.body.bn1.eps == 0
    state = found.state_dict()
    for key, value in theirs.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(state[key], value)
    assert load(tmp_path / "theirs.pth", norm_eps=1e-5).backbone.body.bn1.eps == 1e-5


@pytest.mark.parametrize("stages", range(6))
def test_stages_learn_as_torchvisions(stages):
    options = {"backbone_name": "resnet50", "weights": None, "norm_layer": nn.BatchNorm2d}
    with torch.device("meta"):
        theirs = resnet_fpn_backbone(**options, trainable_layers=stages)
    ours = on_meta("mask_rcnn_r50_fpn", norm="batch", trainable_stages=stages).backbone
    learn = [{n for n, p in net.named_parameters() if p.requires_grad} for net in (theirs, ours)]
    assert learn[0] == learn[1]


def test_an_image_classifier_fills_the_backbone(tmp_path):
    torch.manual_seed(0)
    classifier = resnet50()
    filled_at_random(classifier)
    torch.save(classifier.state_dict(), tmp_path / "resnet50.pth")
    network = create_model("mask_rcnn_r50_fpn_nl1", num_classes=3)
    fpn = network.backbone.fpn.inner_blocks[0][0].weight.clone()
    report = load_weights(network, tmp_path / "resnet50.pth", new_blocks=True)
    body = network.backbone.body.state_dict()
    for key, value in classifier.state_dict().items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(body[key], value), key
    assert torch.equal(network.backbone.fpn.inner_blocks[0][0].weight, fpn)
    assert not any(
        key.startswith("backbone.body") and "non_local" not in key for key in report.left
    )
    assert "fc.weight" in report.unused
    with pytest.raises(ValueError, match="does not fit the network"):
        load_weights(on_meta("mask_rcnn_r101_fpn"), tmp_path / "resnet50.pth")


@pytest.mark.slow
def test_a_resnext_fills_x152_and_no_video_network(tmp_path):
    network = create_model("mask_rcnn_x152_fpn_nl1")
    body = network.backbone.body
    state = {key: value for key, value in body.state_dict().items() if "non_local" not in key}
    torch.save(state, tmp_path / "x152.pth")
    expected = body.layer3[35].conv2.weight.clone()
    nn.init.zeros_(body.layer3[35].conv2.weight)
    load_weights(network, tmp_path / "x152.pth", new_blocks=True)
    assert torch.equal(body.layer3[35].conv2.weight, expected)
    with pytest.raises(ValueError, match="ResNeXt, with grouped convolutions"):
        load_weights(on_meta("c2d_r50"), tmp_path / "x152.pth", new_classifier=True)


@torch.no_grad()
def test_a_file_of_ours_builds_the_detector_again(tmp_path):
    network = create_model("mask_rcnn_tiny_fpn_nl1", num_classes=4, **SMALL)
    filled_at_random(network)
    names = ["__background__", "a", "N/A", "c"]
    info = WeightsInfo(config=network.config, classes=names, short_side=96)
    save_weights(network, tmp_path / "m.safetensors", info)
    again = load(tmp_path / "m.safetensors")
    assert again.info == info
    image = torch.rand(3, 100, 120, generator=torch.Generator().manual_seed(1))
    expected, found = network.eval()([image])[0], again([image])[0]
    assert len(expected["boxes"]) > 0
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    with pytest.raises(ValueError, match="it has no clip"):
        load(tmp_path / "m.safetensors", clip="8x8")
    fresh = create_model("mask_rcnn_tiny_fpn_nl1", num_classes=9)
    report = load_weights(fresh, tmp_path / "m.safetensors", new_classifier=True)
    layers = {key.split(".")[-2] for key in report.left}
    assert layers == {"cls_score", "bbox_pred", "mask_fcn_logits"}
    info.config = network.config | {"name": "mask_rcnn_x152_fpn"}
    save_weights(network, tmp_path / "large.safetensors", info)
    with pytest.raises(ValueError, match="does not fit the network"):
        load(tmp_path / "large.safetensors")
    info.config = network.config | {"min_size": "wide"}
    save_weights(network, tmp_path / "odd.safetensors", info)
    with pytest.raises(ValueError, match=r"odd\.safetensors: "):
        load(tmp_path / "odd.safetensors")


def test_what_is_no_mask_or_keypoint_rcnn_is_refused(tmp_path):
    state = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    torch.save(state, tmp_path / "faster.pth")
    with pytest.raises(ValueError, match="neither a Mask nor a Keypoint R-CNN"):
        load(tmp_path / "faster.pth")
    state = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    torch.save(state, tmp_path / "v2.pth")
    with pytest.raises(ValueError, match=r"v2\.pth: it is of torchvision's second version"):
        load(tmp_path / "v2.pth")


def test_the_table_has_them_and_needs_torch_alone():
    script = "import sys, nonlocalnet as nl; print(nl.list_models('*rcnn*')); "
    script += "assert 'torchvision' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list_models("*_rcnn_*"))
    with pytest.raises(ValueError, match="takes images: it has no clip"):
        create_model("mask_rcnn_r50_fpn", clip="8x8")


@pytest.mark.parametrize("name", list_models("*_rcnn_*"))
def test_rows(name):
    tiny = "tiny" in name
    found = blocks_of((create_model if tiny else on_meta)(name))
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
        sizes = (64, 256) if tiny else (512, 1024)
        assert block.channels == sizes["head" not in path]
        assert block.inner_channels == block.channels // 2
        assert not tiny or not block.w_z.weight.any()


def test_resnext_152_is_32x8d():
    body = on_meta("mask_rcnn_x152_fpn").backbone.body
    assert [len(body[f"layer{i}"]) for i in (1, 2, 3, 4)] == [3, 8, 36, 3]
    assert body.layer1[0].conv2.groups == 32
    assert body.layer1[0].conv2.out_channels == 256  # 32 groups of 8


@pytest.mark.parametrize("name", ["mask_rcnn_tiny_fpn_nl1", "keypoint_rcnn_tiny_fpn_nl5"])
def test_the_tiny_rows_learn_in_every_part(name):
    torch.manual_seed(0)
    network = create_model(name, num_classes=3, min_size=64, trainable_stages=5)
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
    network = create_model("keypoint_rcnn_tiny_fpn", num_keypoints=5)
    assert network.roi_heads.keypoint_predictor.out_channels == 5


def test_options():
    network = on_meta(
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
    again = on_meta(**network.config)
    assert again.state_dict().keys() == network.state_dict().keys()


def test_frozen_stages_do_not_learn_and_blocks_do():
    network = on_meta("mask_rcnn_r50_fpn_nl1")
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
        ({"name": "mask_rcnn_r50_fpn", "min_sise": 3}, "did you mean 'min_size'"),
        ({"name": "mask_rcnn_r50_fpn", "min_size": 0.5}, "must be numbers of pixels; got"),
        ({"name": "keypoint_rcnn_r50_fpn_nl4", "head_place": "inside"}, "head_place must be"),
    ],
)
def test_wrong_choices(arguments, said):
    with pytest.raises(ValueError, match=said):
        create_model(**arguments)


def test_weights_that_do_not_fit_leave_the_detector_as_it_was(tmp_path):
    network = create_model("mask_rcnn_tiny_fpn", num_classes=3)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    for other in (
        create_model("mask_rcnn_tiny_fpn", num_classes=4),
        create_model("keypoint_rcnn_tiny_fpn"),
    ):
        torch.save(other.state_dict(), tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"does not fit the network: .* and \d+ more"):
            load_weights(network, tmp_path / "other.pth")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    "field",
    [
        {"min_size": 10**9},
        {"min_size": [True]},
        {"max_size": True},
        {"size_divisible": 0},
        {"fixed_size": [1 << 30, 1 << 30]},
        {"box_score_thresh": "x"},
        {"box_detections_per_img": 1 << 40},
        {"rpn_anchor_generator": {}},
        {"image_mean": [1, 2]},
        {"norm_eps": float("nan")},
        {"trainable_stages": True},
        {"pairwise": {}},
    ],
)
def test_odd_values_in_a_detectors_description_are_refused(field, tmp_path):
    from safetensors.torch import save_file

    config = {"name": "mask_rcnn_tiny_fpn", "num_classes": 3, **field}
    text = {"nonlocalnet": json.dumps({"config": config})}
    save_file({"backbone.body.conv1.weight": torch.zeros(1)}, tmp_path / "d", metadata=text)
    with pytest.raises(ValueError, match=r"d: (\w+ must be |its input of 1 x )"):
        load(tmp_path / "d")
