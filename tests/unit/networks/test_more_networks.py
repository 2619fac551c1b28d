"""Networks that came in as one file of rows: SlowOnly, and torchvision's video networks."""

import pytest
import torch
from torchvision.models import get_model

import nonlocalnet as nl
from nonlocalnet.evaluation.multiview import probabilities_of
from nonlocalnet.networks import torchvision_video


@pytest.mark.parametrize(
    ("name", "millions"), [("slow_r50_nl5", 39.813), ("slow_r50_nl5_mmaction2", 39.813)]
)
def test_slow_has_the_size_that_its_authors_state(name, millions):
    with torch.device("meta"):
        network = nl.create_model(name)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=6e-4)


def test_slow_keeps_every_frame_and_sees_time_late():
    network = nl.create_model("slow_r50", clip="32x2", widths=(2, 2, 2, 2), conv1_channels=2)
    seen = {}
    network.features(torch.randn(1, 3, 6, 64, 64), seen)
    assert {x.shape[2] for x in seen.values()} == {6}
    temporal = [n for n, m in network.named_modules() if getattr(m, "kernel_size", (1,))[0] == 3]
    convolutions = [n for n in temporal if isinstance(network.get_submodule(n), torch.nn.Conv3d)]
    assert {name.split(".")[0] for name in convolutions} == {"res4", "res5"}
    assert len(convolutions) == 6 + 3


@pytest.mark.parametrize("name", torchvision_video.CLIPS)
def test_torchvisions_networks_are_its_own(name):
    with torch.device("meta"):
        ours = nl.create_model(f"torchvision/{name}", num_classes=5)
        theirs = get_model(name, num_classes=5)
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    frames = int(ours.config["clip"].partition("x")[0])
    weights = torchvision_video.find_weights(name)
    assert ours.config["crop"] == weights.transforms().crop_size[0]
    assert frames >= weights.meta.get("min_temporal_size", 1)


def test_torchvisions_weights_are_taken_but_for_a_classifier_of_other_classes(monkeypatch):
    state = get_model("r3d_18", num_classes=400).state_dict()
    weights = torchvision_video.find_weights("r3d_18")
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **options: state)
    same = nl.create_model("torchvision/r3d_18", weights="DEFAULT")
    assert all(torch.equal(v, state[k]) for k, v in same.state_dict().items())
    assert "weights" not in same.config
    other = nl.create_model("torchvision/r3d_18", weights="KINETICS400_V1", num_classes=3)
    assert torch.equal(other.stem[0].weight, state["stem.0.weight"])
    assert other.fc.out_features == 3


def test_torchvisions_networks_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"takes clips of 16 frames of 224 pixels; got clip '8x8'"):
        nl.create_model("torchvision/mvit_v2_s", clip="8x8")
    with pytest.raises(ValueError, match="weights must be one of KINETICS400_V1, DEFAULT"):
        nl.create_model("torchvision/r3d_18", weights="IMAGENET1K_V1")
    with pytest.raises(ValueError, match=r"torchvision/r3d_18: .*'nothing'"):
        nl.create_model("torchvision/r3d_18", nothing=1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_of_any_network(multi_label):
    network = nl.create_model("torchvision/r3d_18", num_classes=5).eval()
    views = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        found = probabilities_of(network, views, multi_label=multi_label)
        logits = network(views)
    expected = logits.sigmoid() if multi_label else logits.softmax(1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["torchvision/r3d_18", "c2d_tiny"])
def test_blocks_are_inserted_by_name_and_built_again(name):
    places = {"torchvision/r3d_18": ["layer3.*"], "c2d_tiny": ["res3.*"]}[name]
    options = {"pairwise": "dot_product", "subsample": [1, 2, 2]}
    given = {"clip": "4x2", "crop": 32, "num_classes": 3}
    torch.manual_seed(0)
    plain = nl.create_model(name, **given).eval()
    network = nl.create_model(name, **given, insert=places, insert_options=options).eval()
    blocks = [m for m in network.modules() if isinstance(m, nl.NonLocalBlock)]
    assert [(block.pairwise, block.subsample) for block in blocks] == 2 * [
        ("dot_product", (1, 2, 2))
    ]
    again = nl.create_model(**network.config)
    assert again.state_dict().keys() == network.state_dict().keys()
    left = network.load_state_dict(plain.state_dict(), strict=False)
    assert all(".non_local." in key for key in left.missing_keys)
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))  # the identity at start


def test_what_cannot_be_inserted_is_refused():
    given = {"clip": "4x2", "crop": 32}
    with pytest.raises(ValueError, match="layer9"):
        nl.create_model("c2d_tiny", **given, insert=["layer9.*"])
    with pytest.raises(ValueError, match=r"insert must be a list of module paths .* got 'res3'"):
        nl.create_model("c2d_tiny", **given, insert="res3")
    with pytest.raises(ValueError, match=r"insert_options: .*'form'"):
        nl.create_model("c2d_tiny", **given, insert=["res3"], insert_options={"form": 1})
