import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("faster_coco_eval")
from pycocotools import mask as run_lengths
from torchvision.transforms.v2 import functional as F

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.detection.detect import detect
from nonlocalnet.networks import create_model

SIZES = {"min_size": 64, "max_size": 96}


def detector(kind, **options):
    torch.manual_seed(0)
    name = {"mask": "mask_rcnn_r50_fpn_nl1", "keypoint": "keypoint_rcnn_r50_fpn_nl4"}[kind]
    network = create_model(name, num_classes=4, **SIZES, **options)
    for name, tensor in network.state_dict().items():  # numbers that give various scores
        if ".bn" in name and name.endswith("weight"):
            tensor.fill_(0.5)
        elif "roi_heads" in name and tensor.ndim > 1:
            gain = 10 if "cls_score" in name else 1
            torch.nn.init.normal_(tensor, std=gain * tensor[0].numel() ** -0.5)
    return network


@pytest.fixture(scope="module")
def networks():
    return {kind: detector(kind) for kind in ("mask", "keypoint")}


@pytest.fixture
def picture():
    return torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
@torch.no_grad()
def test_it_gives_what_the_network_gives(networks, kind, picture):
    network = networks[kind]
    asked = detector(kind, box_score_thresh=0.4, box_detections_per_img=5).eval()
    asked.load_state_dict(network.state_dict())
    expected = asked([F.to_dtype(picture, torch.float32, scale=True)])[0]
    assert len(expected["boxes"]) == 5
    network.train()
    heads = network.roi_heads
    before = heads.score_thresh, heads.detections_per_img
    found = detect(network, picture, score=0.4, top=5)
    assert network.training
    assert (heads.score_thresh, heads.detections_per_img) == before
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(found, name), expected[name]), name
    assert torch.equal(found.image, picture)
    if kind == "mask":
        assert found.keypoints is None
        assert found.masks.any()
        assert torch.equal(found.masks, expected["masks"][:, 0] > 0.5)
    else:
        assert found.masks is None
        assert torch.equal(found.keypoints[..., :2], expected["keypoints"][..., :2])
        assert torch.equal(found.keypoints[..., 2], expected["keypoints_scores"])


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_nothing_found(networks, kind, picture):
    found = detect(networks[kind], picture, score=0.999999)
    assert (len(found), found.boxes.shape, found.names, found.objects()) == (0, (0, 4), [], [])
    if kind == "mask":
        assert found.masks.shape == (0, 50, 70)
    else:
        assert found.keypoints.shape == (0, 17, 3)


def test_objects_are_told_in_plain_values(networks, picture):
    network = networks["mask"]
    network.info = WeightsInfo({}, ["__background__", "cat", "N/A", "dog"])
    try:
        found = detect(network, picture, score=0.3, top=4)
    finally:
        del network.info
    for i, thing in enumerate(found.objects()):
        assert list(thing) == ["class", "label", "score", "box", "mask"]
        assert thing["class"] == ("__background__", "cat", "N/A", "dog")[thing["label"]]
        assert thing["score"] == pytest.approx(found.scores[i].item(), abs=5.1e-5)
        assert thing["box"] == pytest.approx(found.boxes[i].tolist(), abs=5.1e-3)
        # judged by the other program of the two
        assert np.array_equal(run_lengths.decode(thing["mask"]), found.masks[i].numpy())
    assert detect(network, picture, score=0.3, top=1).names == [str(found.labels[0].item())]
    (person,) = detect(networks["keypoint"], picture, score=0.3, top=1).objects()
    assert np.shape(person["keypoints"]) == (17, 3)


def test_a_photograph_is_turned_upright(networks, picture, tmp_path):
    upright = Image.fromarray(picture.permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # it must be turned by 90° clockwise to be upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    found = detect(networks["mask"], tmp_path / "phone.png", score=0.3, top=5)
    expected = detect(networks["mask"], picture, score=0.3, top=5)
    assert torch.equal(found.image, picture)
    assert torch.equal(found.boxes, expected.boxes)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (400, 10)])
def test_strange_sizes(networks, size):
    for network in networks.values():
        found = detect(network, torch.rand(3, *size), score=0.3, top=2)
        assert found.image.shape == (3, *size)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": torch.nn.Linear(1, 1)}, "such as mask_rcnn_r50_fpn_nl1; got a Linear"),
        ({"score": 1}, "score must be"),
        ({"score": float("nan")}, "score must be"),
        ({"top": 0}, "top at least 1"),
        ({"image": torch.zeros(1, 3, 9, 9)}, "RGB"),
        ({"image": torch.zeros(1, 9, 9)}, "RGB"),
        ({"image": torch.zeros(3, 9, 9, dtype=torch.int64)}, "int64"),
        ({"image": torch.full((3, 9, 9), 255.0)}, "divide it by 255"),
        ({"image": torch.zeros(3, 1, 97)}, "97x1 pixels is too narrow"),
        ({"image": torch.zeros(3, 0, 9)}, "too narrow"),
    ],
)
def test_what_it_cannot_take(networks, change, said):
    arguments = {"model": networks["mask"], "image": torch.zeros(3, 9, 9)} | change
    with pytest.raises(ValueError, match=said):
        detect(arguments.pop("model"), arguments.pop("image"), **arguments)


def test_a_file_that_cannot_be_used_is_named(networks, tmp_path):
    with pytest.raises(CocoError, match=r"none\.png: no such image$"):
        detect(networks["mask"], tmp_path / "none.png")
    Image.new("RGB", (200, 1)).save(tmp_path / "line.png")
    with pytest.raises(CocoError, match=r"line\.png: an image of 200x1"):
        detect(networks["mask"], tmp_path / "line.png")
