"""Every layout, by rule: nothing silent, there and back, hostile configurations."""

import random
import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nonlocalnet as nl
from nonlocalnet.checkpoints.files import Checkpoint, read_checkpoint
from nonlocalnet.checkpoints.formats import caffe2, mmaction2
from nonlocalnet.checkpoints.formats import pyslowfast as slowfast
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.load import read_pretrained
from nonlocalnet.checkpoints.metadata import kinetics_classes
from nonlocalnet.checkpoints.report import compare
from nonlocalnet.checkpoints.resolve import resolve_network
from nonlocalnet.checkpoints.save import export_weights
from nonlocalnet.checkpoints.translate import translate
from nonlocalnet.networks.arguments import resolve

NARROW = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3}
VIDEO = nl.list_models("[ci][23]d*")
PAPER = [name for name in VIDEO if "_r50" in name or "_r101" in name]


def gate(cases):
    """Mark cases slow but for each place of blocks, and each family and depth with five blocks."""

    def is_short(name):
        return name.startswith("i3d_r50") or name.endswith(("_nl5", "_lfb")) or name not in PAPER

    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [c if is_short(c[0]) else pytest.param(*c, marks=pytest.mark.slow) for c in cases]


def network(name, seed=0, **options):
    """A narrow network of the table, filled at random."""
    torch.manual_seed(seed)
    model = nl.create_model(name, **(NARROW | options))
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(7)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
        else:
            value.copy_(0.5 + 0.5 * torch.rand_like(value))
    return model.eval()


def same_numbers(a, b, but=()) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) for key in a if not key.endswith(but)
    )


def quietly(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nl.load(path, **options)


# --- there and back


FROZEN = [name for name in VIDEO if name.endswith(("_nl5", "_nl2"))]


@pytest.mark.parametrize(
    ("name", "norm"), gate([*((n, "batch") for n in VIDEO), *((n, "frozen") for n in FROZEN)])
)
def test_caffe2_there_and_back(tmp_path, name, norm):
    clip = random.Random(name).choice(["8x8", "32x2", "32x4", "128x1"])
    small = {} if name in PAPER else {"widths": resolve(name)["widths"]}
    model = network(name, norm=norm, clip=clip, **small)
    path = tmp_path / "x.pkl"
    unsaid = export_weights(model, path, "caffe2")
    assert unsaid[0] == f"clip='{clip}'"
    told = {option.split("=")[0]: model.arguments[option.split("=")[0]] for option in unsaid[1:]}
    again = quietly(path, clip=clip, **told)
    assert same_numbers(again, model, "num_batches_tracked")
    assert resolve_all(again) == resolve_all(model)


SLOWFASTS = [n for n in PAPER if "3x3x3" not in n and "_lfb" not in n]  # others differ in more


@pytest.mark.parametrize(
    ("name", "pairwise"),
    gate(
        (n, p) for n in SLOWFASTS for p in ("embedded_gaussian", "dot_product")[: 1 + ("nl5" in n)]
    ),
)
def test_pyslowfast_there_and_back(tmp_path, name, pairwise):
    options = {"pool2_time": 1} if name.endswith("nl1") else {}
    model = network(name, stem_padding=1, pairwise=pairwise, **options)
    path = tmp_path / "x.pyth"
    assert export_weights(model, path, "pyslowfast") == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its configuration says it all
        again = nl.load(path)
    assert same_numbers(again, model)
    ignored = () if model.arguments["non_local"] else ("pairwise",)
    assert resolve_all(again, ignored) == resolve_all(model, ignored)


def resolve_all(model, but=()):
    """All arguments, said one way."""
    arguments = model.arguments | {
        f"kernels_{x}": [list(s) for s in model.arguments[f"kernels_{x}"] or []] for x in "ab"
    }
    for x in "ab":
        if all(k == 1 for stage in arguments[f"kernels_{x}"] for k in stage):
            arguments[f"kernels_{x}"] = None
    if arguments["block_norm"] == "auto":
        arguments["block_norm"] = "batch" if arguments["norm"] == "batch" else None
    places = {k: list(v) for k, v in (arguments["non_local"] or {}).items()}
    as_lists = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
    return {k: v for k, v in (as_lists | {"non_local": places}).items() if k not in but}


def test_options_that_caffe2_cannot_say_are_told(tmp_path):
    model = network("c2d_r50_nl1", pairwise="dot_product", stem_padding=1, subsample=None)
    unsaid = export_weights(model, tmp_path / "x.pkl", "caffe2")
    assert unsaid == ["clip='8x8'", "stem_padding=1", "pairwise='dot_product'", "subsample=None"]
    told = {"clip": "8x8", "stem_padding": 1, "pairwise": "dot_product", "subsample": None}
    assert same_numbers(quietly(tmp_path / "x.pkl", **told), model, "num_batches_tracked")


@pytest.mark.parametrize(
    ("layout", "options", "words"),
    [
        ("caffe2", {"pairwise": "concatenation"}, "nothing like res4.non_local4.w_f"),
        ("pyslowfast", {"stem_padding": 0}, "stem_padding=1; this one 0"),
        ("pyslowfast", {"clip": "32x2"}, "temporal_stride=1; this one 2"),
        ("pyslowfast", {"norm": "frozen"}, "norm='batch'; this one 'frozen'"),
        ("pyslowfast", {"pairwise": "gaussian"}, "this is gaussian"),
        ("pyslowfast", {"subsample_position": "after"}, "subsample_position='before'"),
        ("pyslowfast", {"scale": None}, "scale='auto'; this one None"),
        ("pyslowfast", {"bias": False}, "bias=True"),
        ("pyslowfast", {"window": None}, "window=7; this one None"),
        ("pyslowfast", {"widths": (4, 8, 16, 16)}, "widths"),
        ("theirs", {}, "format must be one of"),
    ],
)
def test_what_another_code_base_cannot_be_is_refused(tmp_path, layout, options, words):
    model = network("i3d_r50_nl1", **({"stem_padding": 1} | options))
    with pytest.raises(ValueError, match=re.escape(words)):
        export_weights(model, tmp_path / "x", layout)


def test_pyslowfast_has_no_3x3x3(tmp_path):
    model = network("i3d3x3x3_r50", stem_padding=1)
    with pytest.raises(ValueError, match="in the first convolution"):
        export_weights(model, tmp_path / "x.pyth", "pyslowfast")


# --- nothing silent


def checkpoint(model_state, container="torch", meta=None) -> Checkpoint:
    entries = {
        key: LazyTensor(tuple(value.shape), value.dtype, lambda value=value: value)
        for key, value in model_state.items()
    }
    return Checkpoint(Path("some.file"), container, entries, meta=meta or {})


def theirs(model, rules) -> dict[str, torch.Tensor]:
    return {
        their: value
        for key, value in model.state_dict().items()
        if (their := rules.to_theirs(key)) is not None
    }


@pytest.fixture(scope="module")
def layouts():
    """layout -> (their tensors, the network to fill, the mapping of names, options)."""
    plain = network("c2d_r50_nl5", stem_padding=1)
    odd = {"stem_padding": 1, "pool1_time": 1, "subsample_position": "after", "scale": None}
    middle = network("i3d_r50_nl5", clip="32x2", window=None, **odd)
    without_bias = {
        k: v
        for k, v in theirs(middle, mmaction2.RULES).items()
        if not k.endswith("conv_out.conv.bias")
    }
    return {
        "caffe2": (theirs(plain, caffe2.RULES), plain, caffe2.RULES),
        "pyslowfast": (theirs(plain, slowfast.RULES), plain, slowfast.RULES),
        "mmaction2": (without_bias, middle, mmaction2.RULES),
    }


def outcome(state, model) -> tuple[bool, str]:
    """Whether it would load, and everything that is said about it."""
    try:
        report = compare(model, translate(checkpoint(state)))
    except ValueError as error:
        return False, str(error)
    said = [f"{row.theirs} {row.ours} {row.note}" for row in report.rows if row.note]
    return not report.problems and not report.conflicts, "\n".join(said + report.conflicts)


@pytest.mark.parametrize("layout", ["caffe2", "pyslowfast", "mmaction2"])
def test_whole_files_load(layouts, layout):
    state, model, _ = layouts[layout]
    assert outcome(state, model)[0]


@pytest.mark.parametrize("layout", ["caffe2", "pyslowfast", "mmaction2"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_key_changed_at_random_is_always_reported(layouts, layout, data):
    state, model, rules = layouts[layout]
    key = data.draw(st.sampled_from(sorted(state)))
    how = data.draw(st.sampled_from(["renamed", "dropped", "doubled", "reshaped", "moved"]))
    changed, ours = dict(state), str(rules.to_ours(key))
    value = changed[key]
    if how == "renamed":
        del changed[key]
        changed[key + "x"] = value
    elif how == "dropped":
        del changed[key]
    elif how == "doubled":
        changed[("gpu_0/" if layout == "caffe2" else "module.") + key] = value
    elif how == "reshaped":
        changed[key] = value[None] if value.ndim < 2 else value.flatten(0, 1)
    else:  # the number of a stage or block is another
        digits = list(re.finditer(r"\d+", key))
        if not digits:
            return
        at = data.draw(st.sampled_from(digits))
        del changed[key]
        changed[f"{key[: at.start()]}{int(at[0]) + 40}{key[at.end() :]}"] = value
    loads, said = outcome(changed, model)
    counter = ours.endswith("num_batches_tracked")
    if how == "dropped" and counter:
        assert loads
    else:
        assert not loads
    # a stem or a stage that is not recognized is said of the whole
    whole = re.search(
        r"known format|not a complete|not a C2D|temporal kernels|axes|2-D networks", said
    )
    assert key in said or ours in said or whole, (how, key, said)


def test_blocks_in_the_file_and_not_in_the_network_are_named(layouts):
    state, _, _ = layouts["caffe2"]
    model = network("c2d_r50", stem_padding=1)
    report = compare(model, translate(checkpoint(state)))
    notes = [row.note for row in report.problems]
    assert len(notes) == sum("nonlocal" in key for key in state)
    assert notes[0].startswith("nonlocal_conv3_1_")
    assert "of a non-local block, is not in the network" in notes[0]


def test_every_key_has_one_row(layouts):
    for state, model, _ in layouts.values():
        extra = {**state, "epoch_of_moon": torch.ones(1)}
        report = compare(model, translate(checkpoint(extra)))
        assert sorted(r.theirs for r in report.rows if r.theirs) == sorted(extra)
        assert sorted(r.ours for r in report.rows if r.ours) == sorted(model.state_dict())


def test_state_of_the_training_is_ignored_by_a_rule(layouts):
    state, model, _ = layouts["caffe2"]
    momentum = {f"{key}_momentum": value for key, value in state.items()}
    report = compare(model, translate(checkpoint({**state, **momentum, "lr": torch.tensor(0.1)})))
    assert report.problems == []
    ignored = {row.theirs: row.note for row in report.rows if row.outcome == "ignored"}
    assert set(ignored) == {*momentum, "lr"}
    assert set(ignored.values()) == {"state of the optimizer", "state of the training"}


def test_new_blocks_are_whole_blocks(layouts):
    """A block of which the file has a part is not a new one."""
    state, model, _ = layouts["caffe2"]
    lacking = {key: value for key, value in state.items() if "nonlocal_conv4_3_theta_w" not in key}
    report = compare(model, translate(checkpoint(lacking)), new_blocks=True)
    assert [row.note for row in report.problems] == [
        "res4.non_local3.theta.weight is not in the file"
    ]
    without = {key: value for key, value in state.items() if "nonlocal_conv4_3" not in key}
    report = compare(model, translate(checkpoint(without)), new_blocks=True)
    assert report.problems == []
    assert {key.rsplit(".", 2)[0] for key in report.left} >= {"res4.non_local3"}


# --- what the file does not say


def test_what_is_not_said_is_asked_for_by_name(layouts):
    for layout, words in {
        "caffe2": ["clip='8x8', '32x2', '32x4' or '128x1'"],
        "pyslowfast": ["clip='8x8'", "pairwise='embedded_gaussian' or 'dot_product'"],
        "mmaction2": ["clip='32x2'", "pairwise='embedded_gaussian' or 'dot_product'"],
    }.items():
        file = checkpoint(layouts[layout][0])
        with pytest.raises(ValueError, match="does not say all of its network; pass") as error:
            resolve_network(file.path, translate(file))
        assert [word for word in words if word not in str(error.value)] == []


def test_frozen_files_are_told_by_their_norms(tmp_path):
    model = network("i3d_r50_nl5", norm="frozen", clip="32x4")
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    again = quietly(tmp_path / "x.pkl", clip="32x4")
    assert again.config["norm"] == "frozen"
    assert again.res3.non_local1.temporal_group == 4
    assert again.res4.non_local1.temporal_group is None
    x = torch.randn(1, 3, 32, 32, 32)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("layout", ["caffe2", "pyslowfast"])
def test_batch_norms_fold_into_a_frozen_network(layouts, layout):
    state, model, _ = layouts[layout]
    frozen = nl.create_model(
        "c2d_r50_nl5", stem_padding=1, norm="frozen", temporal_group=None, **NARROW
    )
    from nonlocalnet.checkpoints.report import fill

    converted = translate(checkpoint(state))
    report = compare(frozen, converted)
    assert report.problems == []
    fill(frozen, converted, report)
    x = torch.randn(2, 3, 4, 32, 32)
    expected, y = model.eval()(x), frozen.eval()(x)
    assert (y - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert all("folded" in r.note for r in report.rows if r.outcome == "ignored")


# --- networks that are none of the paper's


def test_two_pathways_need_their_lateral_convolutions(layouts):
    state = {**layouts["pyslowfast"][0], "s1.pathway1_stem.conv.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="too many or too few axes"):
        translate(checkpoint(state))
    slow = [(k, v) for k, v in state.items() if "pathway0" in k and "nonlocal" not in k]
    state |= {key.replace("pathway0", "pathway1"): value for key, value in slow}
    with pytest.raises(ValueError, match="two pathways but is no complete SlowFast"):
        translate(checkpoint(state))


def test_2d_networks_of_mmaction2_are_refused(layouts):
    state = {k: v.flatten(1, 2) if v.ndim == 5 else v for k, v in layouts["mmaction2"][0].items()}
    with pytest.raises(ValueError, match="2-D networks"):
        translate(checkpoint(state))


def test_stages_without_end_are_refused():
    state = {f"res{s}_0_branch2a_w": torch.ones(1, 1, 1, 1, 1) for s in range(2, 5000)}
    state |= {"conv1_w": torch.ones(1, 3, 1, 7, 7), "pred_w": torch.ones(2, 4)}
    with pytest.raises(ValueError, match="4998 stages: not a C2D or I3D network"):
        translate(checkpoint(state))


def test_unknown_layouts_are_named():
    with pytest.raises(ValueError, match=r"its names \(a, b, ...\) are of no known"):
        translate(checkpoint({"a": torch.ones(1), "b": torch.ones(1)}))


CFG = {
    "not there": (None, None),
    "no mapping": ("- 1", "cannot be read"),
    "no model": ("DATA: {}", "cannot be read"),
    "broken": ("MODEL: [", "cannot be read"),
    "object": ("MODEL: !!python/object/apply:os.system ['touch mmmmmm']", "cannot be read"),
    "deep": ("MODEL: " + "[" * 100_000, "cannot be read"),
    "long": ("MODEL: {}\n#" + "x" * (1 << 20), "cannot be read"),
    "slow": ("MODEL: {ARCH: slow}", "MODEL.ARCH slow, its tensors are of another"),
    "slowfast": ("MODEL: {ARCH: slowfast}", "MODEL.ARCH slowfast, its tensors are of another"),
    "x3d": ("MODEL: {ARCH: x3d}", "MODEL.ARCH = 'x3d'"),
    "stride": ("MODEL: {ARCH: c2d}\nRESNET: {STRIDE_1X1: true}", "RESNET.STRIDE_1X1 = True"),
    "groups": ("MODEL: {ARCH: c2d}\nRESNET: {NUM_GROUPS: 32}", "RESNET.NUM_GROUPS = 32"),
    "strides": (
        "MODEL: {ARCH: c2d}\nRESNET: {SPATIAL_STRIDES: [[1], [2], [x], [2]]}",
        "RESNET.SPATIAL_STRIDES",
    ),
    "dilations": (
        "MODEL: {ARCH: c2d}\nRESNET: {SPATIAL_DILATIONS: [[1], [1, 2], [1], [1]]}",
        "RESNET.SPATIAL_DILATIONS",
    ),
    "form": (
        "MODEL: {ARCH: c2d}\nNONLOCAL: {INSTANTIATION: magic}",
        "NONLOCAL.INSTANTIATION = 'magic'",
    ),
    "nonlocal groups": (
        "MODEL: {ARCH: c2d}\nNONLOCAL: {GROUP: [[1], [4], [1], [1]]}",
        "temporal groups but not the number of frames",
    ),
    "groups that do not divide": (
        "MODEL: {ARCH: c2d}\nDATA: {NUM_FRAMES: 8, SAMPLING_RATE: 8}\n"
        "NONLOCAL: {GROUP: [[1], [3], [1], [1]]}",
        "NONLOCAL.GROUP 3 in res3, which must divide its 4 frames",
    ),
    "half a pool": (
        "MODEL: {ARCH: c2d}\nNONLOCAL: {POOL: [[[1,2]], [[1,2]], [[1,2]], [[1,2]]]}",
        "NONLOCAL.POOL",
    ),
    "places": (
        "MODEL: {ARCH: c2d}\nNONLOCAL: {LOCATION: [[[]], [[1]], [[1, 3, 5]], [[]]]}",
        "non-local blocks after {'res3': (1,), 'res4': (1, 3, 5)}, its tensors after",
    ),
    "short list": ("MODEL: {ARCH: c2d}\nNONLOCAL: {GROUP: [[1]]}", "NONLOCAL.GROUP"),
    "list for a word": ("MODEL: {ARCH: [c2d]}", "makes no sense|MODEL.ARCH"),
    "time": ("MODEL: {ARCH: c2d}\nX: !!timestamp foo", "cannot be read"),
    "empty number": ("MODEL: {ARCH: c2d}\nX: !!int ''", "cannot be read"),
    "deviation": ("MODEL: {ARCH: c2d}\nDATA: {STD: [0, 0, 0]}", "std must be positive"),
    "laughs": (
        "a: &a [x, x]\n"
        + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
        )
        + "MODEL: {ARCH: c2d}\nRESNET: {TRANS_FUNC: *y}",
        "RESNET.TRANS_FUNC = [",
    ),
    "text for numbers": ("MODEL: {ARCH: c2d}\nNONLOCAL: {POOL: abc}", "NONLOCAL.POOL"),
}


@pytest.mark.parametrize("case", CFG)
def test_configurations_of_pyslowfast(layouts, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = CFG[case]
    file = checkpoint(layouts["pyslowfast"][0], meta={"cfg": text})
    if words is None:
        assert "clip" in translate(file).asked
        return
    with pytest.raises((ValueError, TypeError)) as error:  # a TypeError becomes a sentence above
        resolve_network(file.path, translate(file), clip="8x8")
    assert any(
        word in str(error.value) or "unhashable" in str(error.value) for word in words.split("|")
    )
    assert len(str(error.value)) < 300
    assert not Path("mmmmmm").exists()


def test_options_in_pyslowfasts_configuration_are_taken(layouts):
    text = """
        MODEL: {ARCH: c2d_nopool, HEAD_ACT: sigmoid, NUM_CLASSES: 3}
        DATA: {NUM_FRAMES: 16, SAMPLING_RATE: 4, MEAN: [0.1, 0.2, 0.3], STD: [1, 2, 3],
               TRAIN_CROP_SIZE: 112, TEST_CROP_SIZE: 128, REVERSE_INPUT_CHANNEL: true}
        NONLOCAL: {INSTANTIATION: dot_product, POOL: [[[1,1,1]], [[1,1,1]], [[1,1,1]], [[1,1,1]]]}
    """
    state = layouts["pyslowfast"][0]
    file = checkpoint(state, meta={"cfg": text})
    converted = translate(file)
    info, _ = resolve_network(file.path, converted)
    options = resolve(**{k: v for k, v in info.config.items() if k != "num_classes"})
    assert (info.config["clip"], info.config["crop"], info.short_side) == ("16x4", 112, 128)
    assert info.multi_label
    assert (options["pairwise"], options["subsample"], options["pool2_time"]) == (
        "dot_product",
        None,
        1,
    )
    assert (info.mean, info.std) == ((0.3, 0.2, 0.1), (3, 2, 1))  # blue came first
    stem = converted.tensors["conv1.weight"].read()
    assert torch.equal(stem, state["s1.pathway0_stem.conv.weight"].flip(1))


PYTHON = {
    "call": ("__import__('os').system('touch mmmmmm')\nmodel = dict()", None),
    "value": ("model = dict(backbone=dict(depth=open('mmmmmm', 'w')))", None),
    "broken": ("model = dict(", "cannot be read"),
    "deep": ("model = " + "(" * 5000, "cannot be read"),
    "other": ("model = dict(backbone=dict(type='ResNet3dSlowOnly'))", "type='ResNet3dSlowOnly'"),
    "eps": ("model = dict(backbone=dict(norm_cfg=dict(type='BN3d', eps=1e-3)))", "eps=0.001"),
    "style": ("model = dict(backbone=dict(style='caffe'))", "style='caffe'"),
    "strides": (
        "model = dict(backbone=dict(conv1_stride_t=1, pool1_stride_t=2))",
        "temporal strides",
    ),
    "spatial": ("model = dict(backbone=dict(spatial_strides=(1, 2, 2, '2')))", "spatial_strides"),
    "dilations": ("model = dict(backbone=dict(dilations=(1, 1, 1, 2)))", "dilations=(1, 1, 1, 2)"),
}


@pytest.mark.parametrize("case", PYTHON)
def test_configurations_of_mmaction2_are_data(layouts, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = PYTHON[case]
    file = checkpoint(layouts["mmaction2"][0], meta={"meta": {"config": text}})
    if words is None:
        assert translate(file).fields["temporal_stride"] == 2
    else:
        with pytest.raises(ValueError, match=re.escape(words)):
            translate(file)
    assert not Path("mmmmmm").exists()


OLD = """
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_bgr=False)
model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='ResNet3d', depth=50,
        inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
        non_local=((0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1, 0, 1), (0, 0, 0)),
        non_local_cfg=dict(sub_sample=True, use_scale=False, mode='dot_product')),
    cls_head=dict(type='I3DHead', num_classes=400, multi_class=True))
test_pipeline = [
    dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips=10),
    dict(type='ThreeCrop', crop_size=224),
    dict(type='Normalize', **img_norm_cfg)]
"""


def test_old_configurations_of_mmaction2_have_old_defaults(layouts):
    """Before `conv1_kernel` was named in them, the temporal strides were 2 and unsaid."""
    converted = translate(checkpoint(layouts["mmaction2"][0], meta={"meta": {"config": OLD}}))
    fields = converted.fields
    assert (fields["temporal_stride"], fields["pairwise"]) == (2, "dot_product")
    assert (fields["pool1_time"], fields["subsample_position"]) == (1, "after")
    assert (converted.clip, converted.short_side, converted.multi_label) == ("32x2", 224, True)
    assert converted.mean == pytest.approx((0.485, 0.456, 0.406))
    new = OLD.replace("depth=50", "depth=50, conv1_kernel=(5, 7, 7)")
    converted = translate(checkpoint(layouts["mmaction2"][0], meta={"meta": {"config": new}}))
    assert converted.fields["temporal_stride"] == 1


def test_own_files_have_their_own_names(tmp_path):
    from nonlocalnet.checkpoints.metadata import WeightsInfo
    from nonlocalnet.checkpoints.save import save_weights

    model = network("c2d_r50_nl1")
    save_weights(model, tmp_path / "x", WeightsInfo(config=model.config))
    assert set(read_checkpoint(tmp_path / "x").tensors) == set(model.state_dict())


# --- names of releases


def test_a_release_is_known_by_its_name_and_its_tensors(tmp_path):
    model = network("i3d_r50_nl5", num_classes=3)
    path = tmp_path / "i3d_nonlocal_32x2_IN_pretrain_400k.pkl"
    export_weights(model, path, "caffe2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = nl.load(path)
    assert again.config["clip"] == "32x2"
    assert again.info.facts["release"] == path.stem
    # with the name of another network's it is any file
    other = path.rename(tmp_path / "c2d_nonlocal_8x8_IN_pretrain_400k.pkl")
    with pytest.raises(ValueError, match="does not say all of its network"):
        nl.load(other)
    assert "release" not in quietly(other, clip="32x2").info.facts


def test_releases_of_pyslowfast_in_caffe2_pad_their_stem(tmp_path):
    model = network("c2d_r50", stem_padding=1, pool2_time=1)
    path = tmp_path / "C2D_NOPOOL_8x8_R50.pkl"
    export_weights(model, path, "caffe2")
    again = nl.load(path)
    assert resolve_all(again) == resolve_all(model)


def test_a_name_that_pytorchvideo_and_users_share_is_not_enough(tmp_path):
    """I3D_8x8_R50.pyth is PyTorchVideo's release, and what PySlowFast's users call theirs."""
    model = network("i3d_r50", stem_padding=1, clip="16x4")
    export_weights(model, tmp_path / "I3D_8x8_R50.pyth", "pyslowfast")
    again = nl.load(tmp_path / "I3D_8x8_R50.pyth")
    assert again.config["clip"] == "16x4"
    assert "release" not in again.info.facts


def test_a_name_that_does_not_fit_is_told(tmp_path):
    path = tmp_path / "i3d_nonlocal_32x2_IN_pretrain_400k.pkl"
    export_weights(network("c2d_r50"), path, "caffe2")
    with pytest.raises(ValueError, match=r"its name is that of i3d_nonlocal\S*, but its network"):
        nl.load(path)


def test_a_file_that_lacks_a_piece_is_asked_about(tmp_path):
    for change in ({"depths": (3, 4, 6, 2)}, {"non_local": {"res3": (1, 3), "res4": (1, 5)}}):
        export_weights(network("c2d_r50_nl5", **change), tmp_path / "x.pkl", "caffe2")
        with pytest.warns(UserWarning, match=f"{next(iter(change))}=.* of no network in the table"):
            nl.load(tmp_path / "x.pkl", clip="8x8", stem_padding=0, pairwise="embedded_gaussian")


def test_a_network_unlike_what_is_nearly_always_so_is_told(tmp_path):
    export_weights(network("c2d_r50_nl5"), tmp_path / "x.pkl", "caffe2")
    model = nl.create_model("c2d_r50_nl5", pairwise="dot_product", **NARROW)
    with pytest.warns(UserWarning, match="pairwise='dot_product' here, 'embedded_gaussian' as in"):
        nl.load_weights(model, tmp_path / "x.pkl")


def load_and_tell(path, **options):
    """Load a network; return it and the names of the arguments that `load` says it assumes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = nl.load(path, **options)
    said = " ".join(str(warning.message).split(" assumed: ")[0] for warning in caught)
    return model, set(re.findall(r"(\w+)=", said))


def assumed(path, **options) -> set[str]:
    return load_and_tell(path, **options)[1]


UNUSUAL = {
    "temporal_stride": 2,
    "stem_padding": 1,
    "pool1_time": 2,
    "pool2_time": 1,
    "strides": (2, 2, 2, 1),  # the window is the same
    "dilations": (1, 1, 1, 2),
    "pairwise": "dot_product",
    "extent": "space",
    "scale": None,
    "subsample": None,
    "subsample_position": "after",
    "window": 2,
    "temporal_group": 2,
}


IN_THE_GATE = ("pairwise", "extent", "scale", "temporal_group")


@pytest.mark.parametrize(
    "name", [n if n in IN_THE_GATE else pytest.param(n, marks=pytest.mark.slow) for n in UNUSUAL]
)
def test_whatever_an_official_file_does_not_say_is_named_until_it_is_told(tmp_path, name):
    """Networks that differ in this alone have one and the same file."""
    options = {"norm": "frozen"} if name == "temporal_group" else {}
    model = network("c2d_r50_nl5", **options)
    other = network("c2d_r50_nl5", **options, **{name: UNUSUAL[name]})
    assert model.arguments[name] != other.arguments[name]
    export_weights(other, tmp_path / "x.pkl", "caffe2")
    rest = {option: model.arguments[option] for option in caffe2.UNSAID if option != name}
    rest |= {"clip": "8x8", "mean": (0.45,) * 3, "std": (0.225,) * 3}
    assert assumed(tmp_path / "x.pkl", **rest) == {name}
    again, names = load_and_tell(tmp_path / "x.pkl", **rest, **{name: UNUSUAL[name]})
    assert names == set()
    assert resolve_all(again) == resolve_all(other)


def test_no_more_is_assumed_than_the_network_has(tmp_path):
    export_weights(network("c2d_r50"), tmp_path / "x.pkl", "caffe2")
    of_blocks = {"pairwise", "scale", "subsample", "subsample_position", "extent", "temporal_group"}
    all_of_it = {*caffe2.UNSAID, "mean", "std"}
    assert assumed(tmp_path / "x.pkl", clip="8x8") == all_of_it - of_blocks
    export_weights(network("c2d_r50_nl5"), tmp_path / "x.pkl", "caffe2")
    assert "scale" not in assumed(tmp_path / "x.pkl", clip="8x8", pairwise="dot_product")
    # shapes show the plain Gaussian
    export_weights(network("c2d_r50_nl5", pairwise="gaussian"), tmp_path / "x.pkl", "caffe2")
    model, names = load_and_tell(tmp_path / "x.pkl", clip="8x8")
    assert model.arguments["pairwise"] == "gaussian"
    assert "pairwise" not in names


def test_without_a_configuration_others_say_as_little(layouts, tmp_path):
    input_ = {"mean", "std", "multi_label"}
    strides = {"temporal_stride", "pool2_time", "strides"}
    others = {"strides", "dilations", "temporal_group"}
    for layout, form, names in (
        ("pyslowfast", "embedded_gaussian", {"subsample", "pool2_time", "window", *others}),
        ("mmaction2", "embedded_gaussian", {*strides, "scale"}),
        ("mmaction2", "dot_product", strides),
    ):
        torch.save({"state_dict": layouts[layout][0]}, tmp_path / "x.pth")
        options = {"clip": "8x8", "pairwise": form}
        model, all_names = load_and_tell(tmp_path / "x.pth", **options)
        assert all_names == names | input_
        told = {name: model.arguments[name] for name in names}
        told |= {name: getattr(model.info, name) for name in input_}
        assert assumed(tmp_path / "x.pth", **options, **told) == set()


def test_what_a_file_says_of_its_input_is_not_contradicted(tmp_path):
    model = network("c2d_r50", stem_padding=1)
    export_weights(model, tmp_path / "x.pyth", "pyslowfast")
    with pytest.raises(ValueError, match=r"the file says mean=.*, which no option changes"):
        nl.load(tmp_path / "x.pyth", mean=(0.5, 0.5, 0.5))
    assert nl.load(tmp_path / "x.pyth", mean=(0.45, 0.45, 0.45)).info.mean == (0.45, 0.45, 0.45)


# --- names of classes


def of_kinetics(path):
    return quietly(path, clip="32x2").info.classes


def test_the_number_of_classes_names_none(tmp_path):
    """A file of 400 classes may be of any data."""
    model = network("i3d_r50_nl5", num_classes=400, clip="32x2")
    export_weights(model, tmp_path / "mine.pkl", "caffe2")
    assert of_kinetics(tmp_path / "mine.pkl") == []
    assert read_pretrained(tmp_path / "mine.pkl").classes == []
    release = tmp_path / "i3d_nonlocal_32x2_IN_pretrain_400k.pkl"
    (tmp_path / "mine.pkl").rename(release)
    assert of_kinetics(release) == read_pretrained(release).classes == kinetics_classes()
    # the release's name on another network, or on one of other classes
    export_weights(network("c2d_r50", num_classes=400), release, "caffe2")
    assert of_kinetics(release) == []
    export_weights(network("i3d_r50_nl5", num_classes=3), release, "caffe2")
    assert of_kinetics(release) == []


def test_names_in_a_files_own_description_are_taken(layouts):
    state = layouts["mmaction2"][0]
    meta = {"config": OLD, "CLASSES": ["run", b"jump", "sit"]}
    converted = translate(checkpoint(state, meta={"meta": meta}))
    assert resolve_network(Path("some.file"), converted)[0].classes == ["run", "jump", "sit"]
    for names in (["run", "jump"], ["run", 2, "sit"], "abc", None):
        converted = translate(checkpoint(state, meta={"meta": meta | {"CLASSES": names}}))
        assert resolve_network(Path("some.file"), converted)[0].classes == []


def test_a_configuration_may_name_its_data(layouts, tmp_path):
    state = dict(layouts["mmaction2"][0])
    width = state["cls_head.fc_cls.weight"].shape[1]
    state["cls_head.fc_cls.weight"] = torch.zeros(400, width)
    state["cls_head.fc_cls.bias"] = torch.zeros(400)
    for place, names in (("kinetics400/val", kinetics_classes()), ("mine/val", [])):
        text = OLD + f"ann_file_val = 'data/{place}.txt'\n"
        converted = translate(checkpoint(state, meta={"meta": {"config": text}}))
        assert resolve_network(Path("some.file"), converted)[0].classes == names


def test_who_knows_the_names_says_them(tmp_path):
    export_weights(network("c2d_r50"), tmp_path / "x.pkl", "caffe2")
    model = quietly(tmp_path / "x.pkl", clip="8x8", classes=["run", "jump", "sit"])
    assert model.info.class_name(1) == "jump"
    for names, words in ((["run"], "1 names for 3 classes"), ("abc", "a list of names")):
        with pytest.raises(ValueError, match=words):
            nl.load(tmp_path / "x.pkl", clip="8x8", classes=names)


def test_folding_on_load(tmp_path):
    model = network("i3d_r50_nl5", clip="32x4")
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    frozen = quietly(tmp_path / "x.pkl", clip="32x4", norm="frozen", temporal_group=None)
    x = torch.randn(1, 3, 32, 32, 32)
    expected = model(x)
    assert (frozen(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_pyslowfast_keeps_input_and_classes(tmp_path):
    from nonlocalnet.checkpoints.metadata import WeightsInfo

    model = network("c2d_r50", stem_padding=1, crop=128)
    model.info = WeightsInfo(
        model.config, multi_label=True, short_side=140, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
    )
    export_weights(model, tmp_path / "x.pyth", "pyslowfast")
    again = nl.load(tmp_path / "x.pyth")
    assert resolve_all(again) == resolve_all(model)
    assert (again.config["clip"], again.config["crop"]) == ("8x8", 128)
    for name in ("multi_label", "short_side", "mean", "std"):
        assert getattr(again.info, name) == getattr(model.info, name)


# --- numbers


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(tmp_path, number):
    model = network("c2d_r50_nl1")
    model.res3.block0.norm_b.running_var[1] = number
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    with pytest.raises(ValueError, match="res3_0_branch2b_bn_riv has numbers that are infinite"):
        quietly(tmp_path / "x.pkl", clip="8x8")


def test_variances_are_positive(tmp_path):
    model = network("c2d_r50")
    model.norm1.running_var[0] = -1e-3
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    with pytest.raises(ValueError, match="res_conv1_bn_riv is a variance and has negative"):
        quietly(tmp_path / "x.pkl", clip="8x8")


def test_numbers_must_fit_float32(layouts, tmp_path):
    state = dict(layouts["pyslowfast"][0])
    state["head.projection.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    torch.save({"model_state": state}, tmp_path / "x.pyth")
    model = nl.create_model("c2d_r50_nl5", stem_padding=1, **NARROW)
    with pytest.raises(ValueError, match="infinite or NaN"):
        nl.load_weights(model, tmp_path / "x.pyth")


def test_integers_are_no_weights(layouts):
    state, model, _ = layouts["caffe2"]
    loads, said = outcome({**state, "conv1_w": state["conv1_w"].to(torch.int8)}, model)
    assert not loads
    assert "conv1_w (conv1.weight) is torch.int8 in the file and torch.float32" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_as_they_are(layouts, dtype, tmp_path):
    state = layouts["pyslowfast"][0]
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model_state": state}, tmp_path / "x.pyth")
    again = nl.create_model("c2d_r50_nl5", stem_padding=1, **NARROW)
    nl.load_weights(again, tmp_path / "x.pyth")
    assert torch.equal(again.conv1.weight, state["s1.pathway0_stem.conv.weight"].float())


def test_damaged_numbers_leave_the_network_as_it_was(layouts, tmp_path):
    state = layouts["pyslowfast"][0]
    path = tmp_path / "x.pyth"
    torch.save({"model_state": state}, path)
    data, last = bytearray(path.read_bytes()), state["head.projection.weight"]
    data[data.rindex(last.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    target = network("c2d_r50_nl5", seed=1, stem_padding=1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"x\.pyth: it is damaged"):
        nl.load_weights(target, path)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_a_release_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nonlocalnet zoo get I3D_8x8_R50"):
        nl.load("I3D_8x8_R50")
