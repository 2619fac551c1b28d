"""Image classifiers as the start of video networks: exact on a video of one repeated frame."""

import pytest
import timm
import torch
import torchvision

import nonlocalnet as nl
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.load import load_weights, read_pretrained
from nonlocalnet.checkpoints.report import inflate

WITHIN = 1e-4  # of the largest logit


def at_random(network, seed=0):
    """Norms that are neither zero nor one, and features that neither vanish nor explode."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                value.uniform_(0.5, 1.5)
            for value in (module.bias.data, module.running_mean):
                value.normal_(std=0.1)
            module.num_batches_tracked.fill_(5)
    for name, module in network.named_modules():
        if name.endswith("bn3"):
            module.weight.data.mul_(0.5)
    return network.eval()


@pytest.fixture(scope="module")
def classifier():
    return at_random(torchvision.models.resnet50(weights=None))


@pytest.fixture(scope="module")
def file(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "resnet50-00000000.pth"
    torch.save(classifier.state_dict(), path)
    return path


def still(image, frames):
    """A video of one repeated frame."""
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def close(a, b) -> bool:
    return bool((a - b).abs().max() <= WITHIN * b.abs().max())


@pytest.mark.parametrize("clip", ["8x8", pytest.param("32x2", marks=pytest.mark.slow)])
@torch.no_grad()
def test_c2d_gives_the_classifiers_answer_on_a_still_video(classifier, file, clip):
    model = nl.create_model("c2d_r50_nl5", num_classes=1000, clip=clip, crop=64, stem_padding=1)
    report = load_weights(model, file, new_blocks=True)
    image = torch.randn(2, 3, 64, 64)
    y = model.eval()(still(image, int(clip.split("x")[0])))
    assert close(y, classifier(image))
    outcomes = {row.outcome for row in report.rows}
    assert outcomes == {"loaded", "inflated", "left"}
    assert {row.note for row in report.rows if row.outcome == "left"} == {"a new non-local block"}
    assert sum(row.outcome == "inflated" for row in report.rows) == 53  # all convolutions
    # with the official padding it is another network, as docs/weights.md says
    other = nl.create_model("c2d_r50", num_classes=1000, clip=clip, crop=64)
    load_weights(other, file)
    assert not close(other.eval()(still(image, 32)), classifier(image))


@pytest.mark.parametrize("name", ["i3d_r50", pytest.param("i3d3x3x3_r50", marks=pytest.mark.slow)])
@torch.no_grad()
def test_i3d_gives_the_image_features_where_it_sees_no_end_of_the_clip(classifier, file, name):
    """Kernels reach 18 frames; at the ends they see zeros, and the mean over the clip differs."""
    model = nl.create_model(name, num_classes=1000, crop=64, stem_padding=1)
    load_weights(model, file)
    image = torch.randn(1, 3, 64, 64)
    body = torch.nn.Sequential(*list(classifier.children())[:-2])
    expected = body(image)
    x = model.eval().features(still(image, 40))  # (1, 2048, 20, 2, 2)
    assert close(x[:, :, 9], expected)
    assert close(x[:, :, 10], expected)
    assert not close(x[:, :, 0], expected)
    assert not close(model(still(image, 8)), classifier(image))


@torch.no_grad()
def test_timm_has_the_same_names(tmp_path):
    network = at_random(timm.create_model("resnet50", pretrained=False, num_classes=7))
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = nl.create_model("c2d_r50", num_classes=7, crop=64, stem_padding=1)
    load_weights(model, tmp_path / "model.safetensors")
    image = torch.randn(1, 3, 64, 64)
    assert close(model.eval()(still(image, 8)), network(image))


def test_timms_group_norms_are_no_batch_norms(tmp_path):
    torch.save(timm.create_model("resnet50_gn").state_dict(), tmp_path / "x.pth")
    model = nl.create_model("c2d_r50", num_classes=1000)
    with pytest.raises(ValueError, match=r"norm1.running_mean is not in the file"):
        load_weights(model, tmp_path / "x.pth")


@torch.no_grad()
def test_resnet101_too():
    from nonlocalnet.checkpoints.files import Checkpoint
    from nonlocalnet.checkpoints.report import compare
    from nonlocalnet.checkpoints.translate import translate

    with torch.device("meta"):
        state = torchvision.models.resnet101(weights=None).state_dict()
    state |= {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.running_var": torch.ones(64)}
    with torch.device("meta"):
        model = nl.create_model("i3d_r101", num_classes=1000)
    entries = {k: LazyTensor(tuple(v.shape), v.dtype, lambda v=v: v) for k, v in state.items()}
    report = compare(model, translate(Checkpoint(None, "torch", entries)))
    assert report.problems == []
    assert sum(row.outcome == "inflated" for row in report.rows) == 104


def test_a_new_classifier_and_the_normalization_of_the_input(file):
    model = nl.create_model("c2d_r50", num_classes=5)
    with pytest.raises(
        ValueError, match=r"fc.weight is \(1000, 2048\) in the file and \(5, 2048\)"
    ):
        load_weights(model, file)
    report = load_weights(model, file, new_classifier=True)
    assert report.left == ["fc.weight", "fc.bias"]
    start = read_pretrained(file)
    assert (start.mean, start.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert start.classes == []


def test_it_is_no_network_by_itself(file):
    with pytest.raises(ValueError, match="is an image classifier; start a video network from it"):
        nl.load(file)


def test_a_missing_block_is_not_new_without_leave(file):
    model = nl.create_model("c2d_r50_nl1", num_classes=1000)
    with pytest.raises(ValueError, match=r"res4.non_local4.theta.weight is not in the file"):
        load_weights(model, file)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_other_resnets_are_refused(tmp_path, name):
    torch.save(getattr(torchvision.models, name)(weights=None).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: it is a ResNet without|is for a ResNeXt"):
        load_weights(nl.create_model("c2d_r50"), tmp_path / "x.pth")


@torch.no_grad()
def test_official_imagenet_files_are_flat_and_cleaned_of_statistics(tmp_path):
    """Kernels of four axes, `_s` and `_b` alone (official sheet, section 4)."""
    from nonlocalnet.checkpoints.formats import caffe2

    narrow = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3}
    source = nl.create_model("c2d_r50", **narrow)
    blobs = {}
    for key, value in source.state_dict().items():
        name = caffe2.RULES.to_theirs(key)
        if name is None or name.endswith(("_rm", "_riv")):
            continue
        value = torch.randn_like(value)
        value = value.squeeze(2) if value.ndim == 5 else value
        blobs[name] = LazyTensor(tuple(value.shape), value.dtype, lambda value=value: value)
    with (tmp_path / "r50_pretrain_c2_model_iter450450_clean.pkl").open("wb") as file:
        caffe2.write(file, blobs)
    model = nl.create_model("i3d_r50_nl5", **narrow)
    model.norm1.running_mean.fill_(9)
    report = load_weights(model, file.name, new_classifier=True, new_blocks=True)
    assert model.norm1.running_mean.eq(0).all()
    assert model.norm1.running_var.eq(1).all()
    made = {row.note for row in report.rows if row.outcome == "made"}
    assert made == {
        "zero: a counter that the file lacks",
        "fresh: the file lacks the statistics of its norms",
    }
    weight = blobs["conv1_w"].read()
    assert torch.allclose(model.conv1.weight, weight.unsqueeze(2).expand(-1, -1, 5, -1, -1) / 5)


def test_caffe_style_files_are_recognized_by_the_scale_of_their_input(classifier, tmp_path):
    """The same network on blue, green, red from 0 to 255 has the same statistics 255/57 higher."""
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    state["conv1.weight"] = state["conv1.weight"].flip(1)  # of the colors
    state["bn1.running_var"] *= 57**2
    state["bn1.running_mean"] *= 57
    torch.save(state, tmp_path / "caffe.pth")
    model = nl.create_model("c2d_r50", num_classes=1000)
    report = load_weights(model, tmp_path / "caffe.pth")
    assert "Caffe-style" in str(report)
    assert "strides on the first 1x1" in str(report)
    assert torch.equal(model.conv1.weight.squeeze(2), classifier.conv1.weight)  # red first again
    start = read_pretrained(tmp_path / "caffe.pth")
    assert start.mean == pytest.approx((0.485, 0.458, 0.408), abs=1e-3)
    assert start.std == pytest.approx((1 / 255,) * 3)


def test_a_real_caffe_style_file(shared):
    start = read_pretrained(shared / "data" / "weights" / "resnet50_caffe_bgr_conv1_layer3.pth")
    assert start.std == pytest.approx((1 / 255,) * 3)


def test_an_assumed_normalization_is_told(file):
    report = load_weights(nl.create_model("c2d_r50", num_classes=1000), file)
    assert "input assumed to be normalized as torchvision's" in str(report)


def test_inflation_divides_by_the_frames():
    weight = torch.randn(4, 3, 7, 7)
    entry = inflate(LazyTensor((4, 3, 7, 7), weight.dtype, lambda: weight), 5)
    assert entry.shape == tuple(entry.read().shape) == (4, 3, 5, 7, 7)
    torch.testing.assert_close(entry.read().sum(2), weight)
    assert torch.equal(entry.read()[:, :, 0], weight / 5)
