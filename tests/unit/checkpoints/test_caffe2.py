"""The official names, as the manifests of the oracle list them."""

import json
from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.formats.caffe2 import RULES

# The network of our table and its norm, by the part of the manifest's name that says so.
MODELS = {
    "c2d_r101_8f": ("c2d_r101", "batch"),
    "c2d_r50_8f": ("c2d_r50", "batch"),
    "c2d_r50_nl_8f": ("c2d_r50_nl5", "batch"),
    "c2d_r50_nl_org_32f": ("c2d_r50_nl5", "batch"),
    "i3d_r50_8f": ("i3d_r50", "batch"),
    "i3d_r50_affine_32f": ("i3d_r50", "frozen"),
    "i3d_r50_nl_32f": ("i3d_r50_nl5", "batch"),
    "i3d_r50_nl_8f": ("i3d_r50_nl5", "batch"),
    "i3d_r50_nl_8f_dot": ("i3d_r50_nl5", "batch"),
    "i3d_r50_nl_affine_32f": ("i3d_r50_nl5", "frozen"),
    "i3d_r50_nl_org_32f": ("i3d_r50_nl5", "batch"),
}
# Sheet, section 4: parameters and statistics of R50/R101 files, without momentum.
COUNTS = {
    ("c2d_r50", "batch"): 267,
    ("i3d_r50", "batch"): 267,
    ("c2d_r50_nl5", "batch"): 327,
    ("i3d_r50_nl5", "batch"): 327,
    ("i3d_r50", "frozen"): 161,
    ("i3d_r50_nl5", "frozen"): 201,
    ("c2d_r101", "batch"): 522,
    ("c2d_r101_nl5", "batch"): 582,
}


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def on_meta(name, **options):
    with torch.device("meta"):
        return nl.create_model(name, **options)


def check_names(manifests: Path) -> set[str]:
    checked = set()
    for path in manifests.glob("*.json"):
        manifest = json.loads(path.read_text())
        theirs = {row[0]: tuple(row[1]) for row in manifest["params"]}
        name, norm = MODELS[path.stem]
        model = on_meta(name, norm=norm, num_classes=manifest["effective"]["MODEL.NUM_CLASSES"])
        mapped = {theirs_name: RULES.to_ours(theirs_name) for theirs_name in theirs}
        assert len(set(mapped.values())) == len(theirs)
        assert {mapped[n]: shape for n, shape in theirs.items()} == shapes(model)
        assert [n for n in theirs if RULES.to_theirs(mapped[n]) != n] == []
        checked.add(path.stem)
    return checked


def test_names_map_one_to_one_onto_the_network(oracle):
    assert {norm for name in check_names(oracle / "manifests") for norm in MODELS[name]} >= {
        *("c2d_r50_nl5", "i3d_r50_nl5", "c2d_r101", "batch", "frozen")
    }


@pytest.mark.slow
def test_names_of_the_whole_oracle(shared):
    assert check_names(shared / "oracle" / "manifests") == set(MODELS)


@pytest.mark.parametrize(("name", "norm"), COUNTS)
def test_networks_have_as_many_blobs_as_official_files(name, norm):
    keys = shapes(on_meta(name, norm=norm))
    assert len(keys) == COUNTS[name, norm]
    assert len({RULES.to_theirs(key) for key in keys} - {None}) == len(keys)


def test_variance_is_riv_in_spite_of_its_name():
    assert RULES.to_ours("res2_0_branch2a_bn_riv") == "res2.block0.norm_a.running_var"
    assert RULES.to_ours("res2_0_branch2a_bn_rm") == "res2.block0.norm_a.running_mean"
