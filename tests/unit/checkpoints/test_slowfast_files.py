"""Files of PySlowFast and of long-term feature banks: what they say, and what must be told."""

import re
import warnings

import pytest
import torch
import yaml

import nonlocalnet as nl
from nonlocalnet.checkpoints.save import export_weights

NARROW = {"widths": [8, 16, 32, 64], "conv1_channels": 8, "num_classes": 3, "crop": 64}
EXPORTS = {"stem_padding": 1}
SLOWFAST = ("slowfast_4x16_r50", "slowfast_8x8_r50_nl5", "slowfast_16x8_r101_nl3")


def network(name, **options):
    torch.manual_seed(0)
    model = nl.create_model(name, **NARROW | options)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value))
    return model.eval()


def load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nl.load(path, **options)


def warnings_of(path, **options) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nl.load(path, **options)
    return "\n".join(str(warning.message) for warning in caught)


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    counters = "num_batches_tracked"  # Caffe2 has none
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) for key in a if not key.endswith(counters)
    )


def edit(path, **sections):
    """Change the configuration in a file."""
    content = torch.load(path, weights_only=True)
    config = yaml.safe_load(content["cfg"])
    for section, values in sections.items():
        config.setdefault(section, {}).update(values)
    torch.save(content | {"cfg": yaml.safe_dump(config)}, path)


# --- PySlowFast


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("slow_r50_nl5", {"clip": "4x16"}),
        ("slow_r50_nl5", {"clip": "32x2", "temporal_group": {"res3": 8, "res4": 16}}),
        ("i3d_r50_nl5", {"non_local": {"res3": (1, 3), "res4": (1, 3, 5)}, **EXPORTS}),
        ("c2d_r50_nl5", {"subsample": {"res3": (2, 2, 2), "res4": None}, **EXPORTS}),
        ("c2d_r50_nl5", {"temporal_group": {"res3": 2}, "clip": "16x8", **EXPORTS}),
        ("i3d_r50", {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2), "window": 2, **EXPORTS}),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("slow_r101", *SLOWFAST)),
        ("slowfast_8x8_r50", {"lateral_kernel": 7, "beta": 4, "alpha": 2}),
        (
            "slowfast_8x8_r50",
            {
                "non_local": {"res3": (1,), "fast.res3": (0, 2), "fast.res5": (1,)},
                "subsample": {"res3": (2, 2, 2), "fast.res3": None, "fast.res5": (1, 2, 2)},
                "temporal_group": {"fast.res3": 8, "fast.res5": 16},
            },
        ),
    ],
)
def test_pyslowfasts_configuration_says_it_all(tmp_path, name, options):
    model = network(name, **options)
    assert export_weights(model, tmp_path / "x.pyth", "pyslowfast") == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = nl.load(tmp_path / "x.pyth")
    assert same(again, model)
    assert str(again) == str(model)  # every option of every module
    assert (again.config["clip"], again.window) == (model.config["clip"], model.window)
    export_weights(again, tmp_path / "y.pyth", "pyslowfast")
    before, after = (torch.load(tmp_path / f"{name}.pyth")["cfg"] for name in "xy")
    assert before == after


def test_groups_are_as_many_as_pyslowfast_counts(tmp_path):
    model = network("slow_r50_nl5", clip="16x4", temporal_group={"res3": 4})
    export_weights(model, tmp_path / "x.pyth", "pyslowfast")
    config = yaml.safe_load(torch.load(tmp_path / "x.pyth")["cfg"])
    assert config["NONLOCAL"]["GROUP"] == [[1], [4], [1], [1]]
    edit(tmp_path / "x.pyth", NONLOCAL={"GROUP": [[1], [2], [8], [1]]})
    again = load(tmp_path / "x.pyth")
    assert again.arguments["temporal_group"] == {"res3": 8, "res4": 2}
    with pytest.raises(ValueError, match=r"temporal_group=8 must divide the number of frames"):
        again(torch.zeros(1, 3, 12, 32, 32))
    with pytest.raises(ValueError, match="the file's network has temporal_group="):
        load(tmp_path / "x.pyth", temporal_group=None)
    edit(tmp_path / "x.pyth", NONLOCAL={"GROUP": [[1], [3], [1], [1]]})
    with pytest.raises(ValueError, match="GROUP 3 in res3, which must divide its 16 frames"):
        load(tmp_path / "x.pyth")


def test_a_network_of_short_cycles_averages_the_whole_map(tmp_path):
    export_weights(network("slow_r50"), tmp_path / "x.pyth", "pyslowfast")
    assert load(tmp_path / "x.pyth").window == 2
    edit(tmp_path / "x.pyth", MULTIGRID={"SHORT_CYCLE": True})
    assert load(tmp_path / "x.pyth").window is None


@pytest.mark.parametrize("name", ["slow_r50_nl5", "slowfast_8x8_r50_nl5"])
def test_a_detector_gives_its_backbone(tmp_path, name):
    model = network(name)
    export_weights(model, tmp_path / "x.pyth", "pyslowfast")
    edit(tmp_path / "x.pyth", DETECTION={"ENABLE": True})
    said = warnings_of(tmp_path / "x.pyth")
    assert "fc.* is new: its head classifies boxes, not clips" in said
    other = network(name, num_classes=7)
    before = other.fc.weight.clone()
    report = nl.load_weights(other, tmp_path / "x.pyth")
    assert torch.equal(other.fc.weight, before)
    assert torch.equal(other.res5.block2.conv_c.weight, model.res5.block2.conv_c.weight)
    assert report.left == ["fc.weight", "fc.bias"]
    assert report.unused[-2:] == ["head.projection.weight", "head.projection.bias"]


def test_blocks_that_the_configuration_states_are_no_sign_of_a_missing_piece(tmp_path):
    """As in PySlowFast's I3D_NLN_8x8_R101, which has the places of its ResNet-50."""
    places = {"res3": (1, 3), "res4": (1, 3, 5)}
    model = network("i3d_r101_nl5", non_local=places, **EXPORTS)
    export_weights(model, tmp_path / "x.pyth", "pyslowfast")
    assert warnings_of(tmp_path / "x.pyth") == ""
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    assert "of no network in the table" in warnings_of(tmp_path / "x.pkl", clip="8x8")
    content = torch.load(tmp_path / "x.pyth")
    state = content["model_state"]
    content["model_state"] = {k: v for k, v in state.items() if "s3.pathway0_nonlocal3" not in k}
    torch.save(content, tmp_path / "x.pyth")
    with pytest.raises(ValueError, match="its configuration has non-local blocks after"):
        load(tmp_path / "x.pyth")


TOLD = {"clip": "32x2", "alpha": 4, "pairwise": "dot_product", "subsample": (1, 2, 2)}


@pytest.mark.parametrize("form", ["caffe2", pytest.param("pyslowfast", marks=pytest.mark.slow)])
def test_what_slowfast_files_do_not_say_is_asked_for(tmp_path, form):
    model = network("slowfast_8x8_r50_nl5", temporal_group={"res3": 4}, strides=(1, 2, 2, 1))
    path = tmp_path / "x"
    if form == "caffe2":
        export_weights(model, path, form)
    else:
        export_weights(network("slowfast_8x8_r50_nl5"), path, form)
        torch.save({"model_state": torch.load(path)["model_state"]}, path)
    for name in TOLD:
        with pytest.raises(ValueError, match=f"pass {name}="):
            load(path, **{key: value for key, value in TOLD.items() if key != name})
    assumed = warnings_of(path, **TOLD, crop=64)
    named = set(re.findall(r"(\w+)=", assumed.replace(str(tmp_path), "")))
    assert named == {
        *("strides", "dilations", "temporal_group", "window", "mean", "std", "multi_label")
    }
    assert load(path, **TOLD | {"subsample": None}).res3.non_local1.subsample is None
    told = {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 1), "temporal_group": {"res3": 4}}
    told |= {"window": 4, "mean": (0.4,) * 3, "std": (0.2,) * 3, "multi_label": True, "crop": 64}
    assert warnings_of(path, **TOLD, **told) == ""
    if form == "caffe2":
        again = load(path, **TOLD, **told)
        assert same(again, model)
        assert again(torch.ones(1, 3, 16, 32, 32)).equal(model(torch.ones(1, 3, 16, 32, 32)))


def test_slow_files_of_caffe2_have_no_pool2_and_pad_their_stem(tmp_path):
    model = network("slow_r50_nl5", clip="4x16")
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    with pytest.raises(ValueError, match=r"pass clip=.* and pairwise="):
        load(tmp_path / "x.pkl")
    again = load(tmp_path / "x.pkl", clip="4x16", pairwise="dot_product", crop=64)
    assert again.config == model.config
    assert same(again, model)


@pytest.mark.parametrize(
    ("folder", "count", "strides"),
    [pytest.param("ava", 80, 1, marks=pytest.mark.slow), ("pretrain", 600, 2)],
)
def test_the_networks_for_ava_are_known_by_their_names(tmp_path, folder, count, strides):
    ava = {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)} if folder == "ava" else {}
    model = network("slowfast_16x8_r101_nl3", subsample=(2, 2, 2), num_classes=count, **ava)
    path = tmp_path / "SLOWFAST_32x2_R101_50_50.pkl"
    export_weights(model, path, "caffe2")
    said = warnings_of(path)
    again = load(path)
    assert again.config["clip"] == "32x2"
    assert again.arguments["strides"][3] == strides
    assert again.res4.non_local6.subsample == (2, 2, 2)
    assert again.arguments["pairwise"] == "dot_product"
    if folder == "ava":
        assert said.endswith(
            "fc.* is new: SLOWFAST_32x2_R101_50_50_ava classifies boxes, not clips"
        )
    else:
        assert said == ""
        assert same(again, model)
        # the same name, another network
        export_weights(network("slowfast_16x8_r101_nl3"), path, "caffe2")
        with pytest.raises(ValueError, match=r"its name is that of .*, but its network is another"):
            load(path)


# --- long-term feature banks


@pytest.fixture
def lfb(tmp_path):
    model = network("i3d_r50_nl5_lfb", num_classes=400)
    export_weights(model, tmp_path / "r50_k400_pretrained.pkl", "caffe2")
    return model


def test_feature_banks_are_known_by_their_names(lfb, tmp_path):
    path = tmp_path / "r50_k400_pretrained.pkl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = nl.load(path, crop=64)
    assert again.config == lfb.config
    assert same(again, lfb)
    assert len(again.info.classes) == 400
    assert {
        n: m.temporal_group for n, m in again.named_modules() if isinstance(m, nl.NonLocalBlock)
    } == {
        "res3.non_local1": 4,
        "res3.non_local3": 4,
        **dict.fromkeys(("res4.non_local1", "res4.non_local3", "res4.non_local5")),
    }
    out = {}
    again.features(torch.zeros(1, 3, 32, 32, 32), out)
    assert {name: x.shape[2:] for name, x in out.items() if "." not in name} == {
        "conv1": (32, 16, 16),
        "pool1": (32, 8, 8),
        "res2": (32, 8, 8),
        "pool2": (16, 8, 8),
        "res3": (16, 4, 4),
        "res4": (16, 2, 2),
        "res5": (16, 2, 2),
    }


def test_feature_banks_are_never_guessed(lfb, tmp_path):
    path = (tmp_path / "r50_k400_pretrained.pkl").rename(tmp_path / "mine.pkl")
    said = warnings_of(path, clip="32x2", stem_padding=1, pairwise="embedded_gaussian")
    assert "strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1) are assumed" in said
    assert "for them pass release='lfb_kinetics400_r50'" in said
    again = load(path, release="lfb_kinetics400_r50", crop=64)
    assert again.config == lfb.config
    assert again.info.facts["release"] == "lfb_kinetics400_r50"
    assert len(again.info.classes) == 400
    for other in ("lfb_kinetics400_r101", "lfb_ava_r50", "SLOWFAST_8x8_R50"):
        with pytest.raises(ValueError, match=f"its network is not that of {other}"):
            load(path, release=other)
    with pytest.raises(ValueError, match="did you mean 'lfb_kinetics400_r50'"):
        load(path, release="lfb_kinetics400_r5")


def test_a_fine_tuned_feature_bank_is_known_by_its_folder(tmp_path):
    model = network("i3d_r50_nl5_lfb", num_classes=125, dilations=[1, 1, 1, 1])
    path = tmp_path / "103704809" / "model_final.pkl"
    path.parent.mkdir()
    export_weights(model, path, "caffe2")
    assert load(path, crop=64).config == model.config
    with pytest.raises(ValueError, match="pass clip="):
        load(path.rename(tmp_path / "model_final.pkl"))
