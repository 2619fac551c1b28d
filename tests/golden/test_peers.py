"""Networks of other code bases: file in, their own logits out (oracle/peers, make_peers.py)."""

import json
import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import recipe
import torch

import nonlocalnet as nl

HERE = Path(__file__).parent / "peers"
WITHIN = {"r50": 1e-4, "r101": 5e-4}  # of the logits' deviation, as the oracle's
SLOWFAST_CFG = """\
BN:
  NORM_TYPE: batchnorm
  NUM_BATCHES_PRECISE: 200
DATA:
  INPUT_CHANNEL_NUM:
  - 3
  MEAN:
  - 0.45
  - 0.45
  - 0.45
  NUM_FRAMES: 8
  SAMPLING_RATE: 8
  STD:
  - 0.225
  - 0.225
  - 0.225
  TEST_CROP_SIZE: 256
  TRAIN_CROP_SIZE: 224
MODEL:
  ARCH: {arch}
  HEAD_ACT: softmax
  MODEL_NAME: ResNet
  NUM_CLASSES: 16
NONLOCAL:
  GROUP:
  - - 1
  - - 1
  - - 1
  - - 1
  INSTANTIATION: {form}
  LOCATION: {location}
  POOL:
  - - [1, 2, 2]
    - [1, 2, 2]
  - - [1, 2, 2]
    - [1, 2, 2]
  - - [1, 2, 2]
    - [1, 2, 2]
  - - [1, 2, 2]
    - [1, 2, 2]
RESNET:
  DEPTH: 50
  NUM_GROUPS: 1
  SPATIAL_DILATIONS: [[1], [1], [1], [1]]
  SPATIAL_STRIDES: [[1], [2], [2], [2]]
  STRIDE_1X1: false
  TRANS_FUNC: bottleneck_transform
  WIDTH_PER_GROUP: 64
"""


def tensors(arrays) -> OrderedDict:
    return OrderedDict((key, torch.tensor(value)) for key, value in arrays.items())


def load_quietly(path, **options):
    """Load, where nothing may be assumed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return nl.load(path, **options)


def error(logits, expected, of: str = "") -> float:
    """The largest difference, in deviations of the expected."""
    expected = np.asarray(expected)
    value = float(np.abs(logits.numpy() - expected).max() / expected.std())
    if of:
        print(f"oracle {of}: logits {value:.1e}")
    return value


# --- the oracle's full-size networks


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("pyslowfast_C2D_8x8_R50", marks=pytest.mark.slow),
        "pyslowfast_I3D_NLN_8x8_R50",
    ],
)
@torch.no_grad()
def test_pyslowfast(oracle, tmp_path, name):
    manifest = json.loads((oracle / "peers" / f"{name}.json").read_text())
    expected = np.load(oracle / "peers" / f"{name}.npz")
    blocks = "NLN" in name
    cfg = SLOWFAST_CFG.format(
        arch=name.split("_")[1].lower(),
        form="softmax",
        location="[[[]], [[1, 3]], [[1, 3, 5]], [[]]]" if blocks else "[[[]], [[]], [[]], [[]]]",
    )
    path = tmp_path / "checkpoint_epoch_00001.pyth"
    state = tensors(recipe.parameters(manifest))
    torch.save({"epoch": 0, "model_state": state, "optimizer_state": {}, "cfg": cfg}, path)
    model = load_quietly(path)
    assert model.config == {
        "name": "i3d_r50_nl5" if blocks else "c2d_r50",
        "num_classes": 16,
        "clip": "8x8",
        "crop": 224,
        "stem_padding": 1,
    }
    logits = model(torch.from_numpy(recipe.clip(manifest["input"]["shape"])))
    assert error(logits, expected["logits"], name) <= WITHIN["r50"]
    clip = torch.from_numpy(recipe.clip(manifest["crop256"]["shape"]))
    windows = model.logits_map(clip).permute(0, 2, 3, 1)[0]
    assert error(windows, expected["crop256_logits"], f"{name} 256") <= WITHIN["r50"]
    p = model.probabilities(clip).numpy()
    assert np.abs(p - expected["crop256_prob"]).max() <= 2e-5


@torch.no_grad()
def test_mmaction2(oracle, tmp_path):
    name = "mmaction2_i3d_r50_32x2_nl_embedded_gaussian"
    manifest = json.loads((oracle / "peers" / f"{name}.json").read_text())
    expected = np.load(oracle / "peers" / f"{name}.npz")
    path = tmp_path / "x.pth"
    torch.save({"meta": {}, "state_dict": tensors(recipe.parameters(manifest))}, path)
    with (
        pytest.warns(UserWarning, match="temporal_stride=2 is assumed"),
        pytest.warns(UserWarning, match="scale=None are assumed"),
    ):
        model = nl.load(path, clip="32x2", pairwise="embedded_gaussian")
    logits = model(torch.from_numpy(recipe.clip(manifest["input"]["shape"])))
    assert error(logits, expected["logits"], name) <= WITHIN["r50"]


# --- narrow networks of more families, run for real by make_peers.py

# PySlowFast's are those of test_pyslowfast_families.py
NARROW = sorted(p.stem for p in HERE.glob("*.json") if not p.stem.startswith("pyslowfast"))


@cache
def golden(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text())


def narrow_state(name) -> OrderedDict:
    return tensors({key: recipe.fill(key, size, g) for key, size, g in golden(name)["params"]})


def narrow_file(name, path) -> Path:
    state, meta = narrow_state(name), golden(name)["meta"]
    pytorchvideo = name.startswith("pytorchvideo")
    torch.save(
        {"model_state": state} if pytorchvideo else {"meta": meta, "state_dict": state}, path
    )
    return path


def load_narrow(name, tmp_path, **options):
    path = narrow_file(name, tmp_path / "x.pth")
    if name.startswith("pytorchvideo"):
        said = {"temporal_stride": 1, "pool2_time": 2, "multi_label": False}
        said |= {"mean": (0.45,) * 3, "std": (0.225,) * 3}
        options = {"clip": "8x8", "window": 2, **said, **options}
    return load_quietly(path, **options)


@pytest.mark.parametrize("name", NARROW)
@torch.no_grad()
def test_narrow_networks(tmp_path, name):
    model = load_narrow(name, tmp_path)
    clip = torch.from_numpy(recipe.clip(golden(name)["clip"]))
    depth = name.split("_")[2]
    assert error(model(clip)[0], golden(name)["logits"], f"narrow {name}") <= WITHIN[depth]


def test_there_are_networks_of_both_peers_and_all_forms():
    assert len(NARROW) == 13
    forms = {form for form in ("embedded", "dot", "_gaussian", "concat") if form in str(NARROW)}
    assert forms == {"embedded", "dot", "_gaussian", "concat"}


# What is easily got wrong, and moves the logits by far more than the tolerance.
WRONG = [
    ("mmaction2_i3d_r50_nl_embedded_gaussian", {"scale": "auto"}),
    ("mmaction2_i3d_r50_nl_embedded_gaussian_scaled", {"scale": None}),
    ("mmaction2_i3d_r50_nl_embedded_gaussian", {"subsample_position": "before"}),
    ("mmaction2_i3d_r50_nl_dot_product", {"subsample_position": "before"}),
    ("mmaction2_i3d_r50_nl_gaussian", {"subsample_position": "before"}),
    ("mmaction2_i3d_r50_nl_dot_product_all_keys", {"subsample": (1, 2, 2)}),
    ("mmaction2_i3d_r50_nl_embedded_gaussian", {"pairwise": "dot_product"}),
    ("mmaction2_i3d_r50", {"stem_padding": 0}),
    ("mmaction2_i3d_r50", {"pool1_time": 2}),
    ("mmaction2_i3d_r50_heavy", {"temporal_stride": 2}),
    ("mmaction2_i3d_r50_no_pool2", {"pool2_time": 2}),
    ("pytorchvideo_c2d_r50", {"stem_padding": 0}),
    ("pytorchvideo_i3d_r50", {"pool2_time": 1}),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
@torch.no_grad()
def test_the_numbers_would_tell(tmp_path, name, change):
    right = load_narrow(name, tmp_path)
    wrong = nl.create_model(**(right.config | change))
    wrong.load_state_dict(right.state_dict())
    clip = torch.from_numpy(recipe.clip(golden(name)["clip"]))
    assert error(wrong.eval()(clip)[0], golden(name)["logits"]) > 10 * WITHIN["r50"]


def test_what_a_file_says_cannot_be_contradicted(tmp_path):
    with pytest.raises(ValueError, match="file's network has stem_padding=1, this one 0"):
        load_narrow("mmaction2_i3d_r50", tmp_path, stem_padding=0)


def test_input_comes_with_the_network(tmp_path):
    model = load_narrow("mmaction2_i3d_r50_nl_gaussian", tmp_path)
    assert model.info.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-9)
    assert model.info.std == pytest.approx((58.395 / 255, 57.12 / 255, 57.375 / 255))
    assert (model.config["clip"], model.info.short_side) == ("32x2", 256)
    assert model.config["window"] is None
