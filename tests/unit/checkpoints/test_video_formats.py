"""Files of MMAction2's SlowOnly and TSM, of TSM, GluonCV and pytorch-resnet3d, made narrow."""

import re
import warnings

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.files import read_checkpoint
from nonlocalnet.checkpoints.formats import gluoncv, mmaction2_export, pytorch_resnet3d, tsm
from nonlocalnet.checkpoints.load import load_weights, plan_load
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.releases import gluoncv as gluoncv_releases
from nonlocalnet.checkpoints.releases import mmaction2 as mmaction2_releases
from nonlocalnet.checkpoints.releases import tsm as tsm_releases
from nonlocalnet.checkpoints.save import _lazy, _read, export_weights
from nonlocalnet.checkpoints.translate import translate
from nonlocalnet.clips import Views

NARROW = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3}
FULL = {"widths": (64, 128, 256, 512), "conv1_channels": 64}
EXPORT = {
    "mmaction2": mmaction2_export.export,
    "tsm": tsm.export,
    "gluoncv": gluoncv.export,
    "pytorch_resnet3d": pytorch_resnet3d.export,
}
DENSE = {"clip": "32x2", "window": None}
GLUON = {**DENSE, "stem_padding": 1, "pool1_time": 1}
ALL = {"subsample": None}


def network(name, **options):
    """A narrow network of the table, filled at random; W_z has no bias, as in MMAction2."""
    torch.manual_seed(0)
    model = nl.create_model(name, **(NARROW | options))
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(7)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5 * (0.01 if "theta" in key else 1))
        else:
            value.copy_(0.5 + 0.5 * torch.rand_like(value))
            if key.endswith("w_z.bias"):
                value.zero_()
    return model.eval()


def content(format, model, views=None):
    """What a file holds; the codes that fix the width are told that it is theirs."""
    own = {} if format == "mmaction2" and not model.arguments["shift_div"] else FULL
    info = WeightsInfo(config=model.config, views=views or Views())
    state = {key: _lazy(value) for key, value in model.state_dict().items()}
    return _read(EXPORT[format](model.arguments | own, state, info))


def save(path, format, model, **options):
    torch.save(content(format, model, **options), path)
    return path


# format, network, options, keys of its file (each project's own code: more_families), to pass
FILES = [
    ("mmaction2", "slow_r50_nl5_mmaction2", {"window": None, "clip": "8x8"}, 380, {}),
    ("mmaction2", "slow_r50", {"window": None, "clip": "4x16"}, 320, {}),
    ("mmaction2", "tsm_r50_nl5", {"pairwise": "dot_product"}, 380, {}),
    ("mmaction2", "tsm_r50_nl5", {"pairwise": "gaussian", "clip": "16seg"}, 360, {}),
    ("mmaction2", "tsm_r50_nl5", {"pairwise": "concatenation", **ALL}, 385, {}),
    ("mmaction2", "tsm_r50", {"clip": "8x8", "shift_div": 4}, 320, {}),
    ("mmaction2", "i3d_r50", GLUON, 320, {}),
    ("tsm", "tsm_r50_nl5", {"clip": "8x8"}, 385, {"clip": "8x8", "shift_div": 8}),
    ("tsm", "tsm_r50_nl5", ALL, 385, {"clip": "8seg", "shift_div": 8}),
    ("tsm", "tsm_r101", {}, 626, {"clip": "8seg", "shift_div": 8}),
    ("gluoncv", "i3d_r50_nl5", GLUON | ALL, 422, {"clip": "32x2"}),
    ("gluoncv", "i3d_r50_nl10", GLUON | ALL, 522, {"clip": "32x2"}),
    ("gluoncv", "i3d_r101_nl5", GLUON | ALL, 728, {"clip": "32x2"}),
    ("pytorch_resnet3d", "i3d_r50_nl5", {**DENSE, "pool1_time": 2}, 327, {"clip": "32x2"}),
    ("pytorch_resnet3d", "i3d_r50", {**DENSE, "pool1_time": 2}, 267, {"clip": "32x2"}),
]


IN_THE_GATE = (0, 2, 3, 6, 7, 10, 13)  # of each project one with and one without blocks


@pytest.mark.parametrize(
    ("format", "name", "options", "keys", "told"),
    [
        case if i in IN_THE_GATE else pytest.param(*case, marks=pytest.mark.slow)
        for i, case in enumerate(FILES)
    ],
)
def test_there_and_back(tmp_path, format, name, options, keys, told):
    model = network(name, **options)
    path = save(tmp_path / "x.pth", format, model)
    assert len(read_checkpoint(path).tensors) == keys
    if format != "mmaction2":
        told = told | {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        told |= {"multi_label": False}
    if format == "pytorch_resnet3d":
        told |= {"mean": (0.45,) * 3, "std": (0.225,) * 3}
    x = torch.randn(1, 3, 8, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is assumed
        again = nl.load(path, **told)
    assert again.config["name"] == name
    assert again.config["clip"] == model.config["clip"]
    state = again.state_dict()
    but = "num_batches_tracked" if format == "pytorch_resnet3d" else "-"
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items() if but not in k)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    # and the file again, bit for bit
    first, second = (
        read_checkpoint(p).tensors for p in (path, save(tmp_path / "y.pth", format, again))
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k].read(), second[k].read()) for k in first)


def test_a_bias_before_a_norm_is_folded(tmp_path):
    model = network("tsm_r50_nl5", clip="8seg")
    model.res3.non_local0.w_z.bias.data.normal_()
    again = nl.load(save(tmp_path / "x.pth", "mmaction2", model))
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))
    assert not again.res3.non_local0.w_z.bias.any()


@pytest.mark.parametrize(
    ("format", "name", "options", "words"),
    [
        ("caffe2", "tsm_r50", {}, "no temporal shift"),
        ("pyslowfast", "tsm_r50", {}, "no temporal shift"),
        ("pyslowfast", "c2d_r50", {"clip": "8seg", "stem_padding": 1}, "no clips of segments"),
        ("tsm", "c2d_r50", {}, "TSM's networks have"),
        ("tsm", "tsm_r50_nl5", {"pairwise": "dot_product"}, "pairwise='embedded_gaussian'"),
        ("gluoncv", "i3d_r50_nl5", {"clip": "32x2"}, "GluonCV's networks have"),
        ("pytorch_resnet3d", "i3d_r101", {"clip": "32x2"}, "pytorch-resnet3d's networks have"),
        ("mmaction2", "c2d_r50", {"window": None}, "stem_padding=1"),
        ("mmaction2", "slow_r50_nl5", {"window": None}, "subsample_position='after'"),
    ],
)
def test_what_another_code_base_cannot_be_is_refused(tmp_path, format, name, options, words):
    model = network(name, **options)

    def export():
        if format in EXPORT:
            return content(format, model)
        return export_weights(model, tmp_path / "x", format)

    with pytest.raises(ValueError, match=re.escape(words)):
        export()


# --- what the files do not say


def test_a_form_that_the_tensors_do_not_show_is_asked_for(tmp_path):
    for name, clip in (("slow_r50_nl5_mmaction2", "8x8"), ("tsm_r50_nl5", "8seg")):
        state = content("mmaction2", network(name, clip=clip))["state_dict"]
        torch.save({"meta": {}, "state_dict": state}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"pass clip=.* and pairwise='embedded_gaussian' or"):
            nl.load(tmp_path / "x.pth")
        with pytest.warns(UserWarning, match="scale="):
            model = nl.load(tmp_path / "x.pth", clip=clip, pairwise="embedded_gaussian")
        assert model.arguments["scale"] == ("auto" if "slow" in name else None)


def test_an_unknown_share_of_channels_is_assumed_and_told(tmp_path):
    path = save(tmp_path / "x.pth", "tsm", network("tsm_r50"))
    with pytest.warns(UserWarning, match="shift_div=8 is assumed: as in the released ones"):
        nl.load(path, clip="8seg")
    with pytest.raises(ValueError, match=r"pass clip='8x8' \(dense clips\) or '8seg'"):
        nl.load(path)
    assert "'module.' was taken off its names" in str(plan_load(path, clip="8seg").report)


R101 = pytest.mark.slow  # of ResNet-101, the names of ResNet-50 with larger numbers
RELEASES = [
    *(("mmaction2", r) for r in mmaction2_releases.rows() if "i3d" not in r.name and not r.boxes),
    *(
        pytest.param("gluoncv", r, marks=R101 if "101" in r.name else ())
        for r in gluoncv_releases.rows()
    ),
    *(("tsm", r) for r in tsm_releases.rows()),
]


@pytest.mark.parametrize(("format", "release"), RELEASES, ids=lambda x: getattr(x, "name", x))
def test_the_name_of_a_release_says_the_rest(tmp_path, format, release):
    options = {**(GLUON if format == "gluoncv" else {}), **release.options}
    if format == "gluoncv" and release.blocks:
        options |= ALL
    if "slow" in release.model:
        options["window"] = None
    model = network(release.model, **(options | {"clip": release.clip}))
    made = content(format, model)
    made = {"meta": {}, "state_dict": made["state_dict"]} if format == "mmaction2" else made
    torch.save(made, tmp_path / release.file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = nl.load(tmp_path / release.file)
    assert again.info.facts["release"] == release.name
    used = ("pairwise", "scale", "subsample", "subsample_position") if release.blocks else ()
    for name in ("temporal_stride", "shift_div", "pool2_time", *used):
        assert again.arguments[name] == model.arguments[name], name


# --- broken and other files


def test_two_names_of_a_tensor_must_agree(tmp_path):
    state = content("gluoncv", network("i3d_r50_nl5", **GLUON, **ALL))
    name = "res_layers.1.1.nonlocal_block.W"
    report = plan_load(_save(state, tmp_path), clip="32x2").report
    assert [row.note for row in report.rows if row.theirs == f"{name}_bn.0.weight"] == [
        f"the same tensor as {name}.weight"
    ]
    state[f"{name}_bn.0.weight"] = state[f"{name}.weight"] + 1
    with pytest.raises(ValueError, match=rf"its '{name}.*_bn.0.weight' are both .* they differ"):
        translate(read_checkpoint(_save(state, tmp_path)))
    del state[f"{name}_bn.0.weight"]
    assert not plan_load(_save(state, tmp_path), clip="32x2").report.problems


def _save(state, folder):
    torch.save(state, folder / "x.pth")
    return folder / "x.pth"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"\.conv1\.net\.", ".conv1.", "without a temporal shift (TSN, C2D): only TSM fits"),
        (r"layer2\.1\.conv1\.net\.", "layer2.1.conv1.", "it shifts 15 residual blocks"),
        (r"layer1\.0\.conv1\.net\.", "layer1.0.net.conv1.", "it shifts whole residual blocks"),
    ],
)
@pytest.mark.parametrize("format", ["tsm", "mmaction2"])
def test_a_shift_elsewhere_is_refused(tmp_path, format, old, new, words):
    made = content(format, network("tsm_r50"))
    if format == "mmaction2":
        old, new = old.replace(r"conv1\.", r"conv1\.conv\."), new.replace("conv1.", "conv1.conv.")
    state = {re.sub(old, new, key): value for key, value in made["state_dict"].items()}
    assert state.keys() != made["state_dict"].keys()
    with pytest.raises(ValueError, match=re.escape(words)):
        nl.load(_save({**made, "state_dict": state}, tmp_path), clip="8x8")


def test_a_configuration_must_be_of_the_tensors(tmp_path):
    made = content("mmaction2", network("tsm_r50_nl5"))
    made["meta"]["cfg"] = made["meta"]["cfg"].replace("(1, 0, 1, 0)", "(0, 1, 0, 1)")
    with pytest.raises(ValueError, match="its configuration has non-local blocks after"):
        nl.load(_save(made, tmp_path))
    made["meta"]["cfg"] = "model = dict(backbone=dict(type='ResNet3dSlowOnly'))"
    with pytest.raises(ValueError, match="type='ResNet3dSlowOnly', which is not supported"):
        nl.load(_save(made, tmp_path))


@pytest.mark.parametrize(
    ("option", "words"),
    [("shift_place='block'", "shift_place"), ("temporal_pool=True", "temporal_pool=True")],
)
def test_another_tsm_is_refused(tmp_path, option, words):
    made = content("mmaction2", network("tsm_r50"))
    made["meta"]["cfg"] = f"model = dict(backbone=dict(type='ResNetTSM', {option}))"
    with pytest.raises(ValueError, match=words):
        nl.load(_save(made, tmp_path))


def test_places_that_the_configuration_states_raise_no_alarm(tmp_path):
    model = network(
        "slow_r50", window=None, clip="4x16", non_local={"res3": [1]}, subsample_position="after"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nl.load(save(tmp_path / "x.pth", "mmaction2", model)).config["non_local"] == {
            "res3": [1]
        }


def test_of_a_detector_the_backbone_is_loaded(tmp_path):
    options = {"window": None, "clip": "4x16", "strides": (1, 2, 2, 1)}
    model = network("slow_r50_nl5_mmaction2", **options)
    made = content("mmaction2", model)
    made["meta"]["cfg"] = made["meta"]["cfg"].replace("'ResNet3d", "'mmaction.ResNet3d")
    state = {k: v for k, v in made["state_dict"].items() if not k.startswith("cls_head")}
    state["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 128)
    path = _save({**made, "state_dict": state}, tmp_path)
    with pytest.raises(ValueError, match="pass num_classes="):
        nl.load(path)
    with pytest.warns(UserWarning, match=r"fc.\* is new: the file's roi_head.\* classifies boxes"):
        again = nl.load(path, num_classes=5)
    assert again.arguments["strides"] == [1, 2, 2, 1]
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.features(x), model.features(x))
    report = load_weights(network("slow_r50_nl5_mmaction2", **options), path)
    assert report.left == ["fc.weight", "fc.bias"]
    assert report.unused == ["roi_head.bbox_head.fc_cls.weight"]
    with pytest.raises(ValueError, match="file's network has strides="):
        load_weights(network("slow_r50_nl5_mmaction2", window=None), path)


def test_another_3d_resnet_is_named(tmp_path):
    made = content("pytorch_resnet3d", network("i3d_r50", **DENSE, pool1_time=2))
    made["conv1.weight"] = torch.zeros(4, 3, 7, 7, 7)
    with pytest.raises(ValueError, match="a 3-D ResNet with a stem of 7x7x7"):
        nl.load(_save(made, tmp_path))


# --- the views of a test


SAMPLE = "dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8{})"
RESIZE = "dict(type='Resize', scale=(-1, {}))"
CONFIG = """
model = dict(backbone=dict(type='ResNetTSM'), cls_head=dict({head}))
test_pipeline = [{steps}]
"""


@pytest.mark.parametrize(
    ("steps", "head", "clip", "side", "views"),
    [
        (
            f"{SAMPLE.format('')}, {RESIZE.format(256)}, dict(type='TenCrop', crop_size=224)",
            "average_clips='prob'",
            "8seg",
            256,
            Views(num_crops=10, crop=224, rule="mmaction2"),
        ),
        (
            f"{SAMPLE.format(', twice_sample=True')}, dict(type='ThreeCrop', crop_size=256)",
            "average_clips='score'",
            "8seg",
            256,
            Views(num_clips=2, num_crops=3, rule="mmaction2", average="logits"),
        ),
        (
            "dict(type='DenseSampleFrames', clip_len=1, frame_interval=1, num_clips=8), "
            f"{RESIZE.format(320)}, dict(type='CenterCrop', crop_size=288)",
            "",
            "8x8",
            320,
            Views(num_clips=10, num_crops=1, crop=288, rule="tsm"),
        ),
    ],
)
def test_views_are_those_of_the_configuration(tmp_path, steps, head, clip, side, views):
    made = content("mmaction2", network("tsm_r50"))
    made["meta"]["cfg"] = CONFIG.format(steps=steps, head=head)
    info = plan_load(_save(made, tmp_path), mean=(1.0,) * 3, std=(1.0,) * 3).info
    assert (info.config["clip"], info.short_side, info.views) == (clip, side, views)
    nl.checkpoints.save.save_weights(network("tsm_r50"), tmp_path / "x.safetensors", info)
    assert plan_load(tmp_path / "x.safetensors").info.views == views  # kept in our files


@pytest.mark.parametrize("views", [{"rule": "x"}, {"num_clips": 0}, {"crop": "a"}, {"n": 1}, 3])
def test_damaged_views_are_refused(views):
    with pytest.raises(TypeError):
        WeightsInfo(config={}, views=views)
