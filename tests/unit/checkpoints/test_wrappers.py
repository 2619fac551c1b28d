"""Wrappers' prefixes are taken off by one rule for every layout, and told."""

import argparse
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.checkpoints.files import read_checkpoint
from nonlocalnet.checkpoints.formats import caffe2, mmaction2, pytorchvideo, torchvision
from nonlocalnet.checkpoints.formats import pyslowfast as slowfast
from nonlocalnet.checkpoints.load import load_weights
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.checkpoints.translate import AVERAGES, BEFORE, INSIDE, translate

OPTIONS = {"num_classes": 3, "clip": "4x2", "crop": 32}


def network(seed=0):
    torch.manual_seed(seed)
    return nl.create_model("c2d_tiny_nl2", **OPTIONS)


@pytest.fixture(scope="module")
def state():
    return network().state_dict()


def before(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def filled(content, path, state):
    """Fill another network from a file, which must have all of its numbers; what is told."""
    torch.save(content, path)
    model = network(seed=1)
    report = load_weights(model, path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {row.theirs for row in report.rows if row.outcome == "loaded"} <= names_of(content)
    return report


def names_of(content):
    inner = next((v for v in content.values() if isinstance(v, dict)), content)
    return set(inner)


@pytest.mark.parametrize(
    "prefix", [*INSIDE, *BEFORE, *AVERAGES, "module._orig_mod.", "net._orig_mod.", "ema.module."]
)
def test_a_prefix_of_all_names_is_taken_off_and_told(state, tmp_path, prefix):
    report = filled(before(prefix, state), tmp_path / "x.pth", state)
    assert f"{prefix!r} was taken off its names" in str(report)


def test_ordinary_files_tell_of_no_prefix(state, tmp_path):
    assert "taken off" not in str(filled(state, tmp_path / "x.pth", state))


def test_real_wrappers_are_known(state, tmp_path):
    own = network()
    wrapped = {
        "parallel": nn.DataParallel(own),
        "average": torch.optim.swa_utils.AveragedModel(own),
        "compiled": torch.compile(own),
        "attribute": nn.ModuleDict({"model": own}),
        "inside": nn.Sequential(),  # filled below
    }
    part = network()
    part.add_module("res3", torch.compile(part.res3))
    wrapped["inside"] = part
    for name, module in wrapped.items():
        report = filled(module.state_dict(), tmp_path / f"{name}.pth", state)
        assert "taken off" in str(report), name


CONTAINERS = {
    "lightning": lambda s: {"state_dict": before("model.", s), "epoch": 3, "callbacks": {}},
    "optimizer": lambda s: {"model": s, "optimizer": {"state": {}}},
    "average beside": lambda s: {"model": s, "model_ema": before("module.", s)},
    "average alone": lambda s: {"ema": before("module.", s)},
    "options": lambda s: {
        "model": s,
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "milestones": Counter([3, 5]),
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_trainers(state, tmp_path, container):
    filled(CONTAINERS[container](state), tmp_path / "x.pth", state)


def test_what_is_beside_the_weights_is_told(state, tmp_path):
    doubled = {key: value * 2 for key, value in state.items()}
    report = filled(before("model.", state) | before("ema.", doubled), tmp_path / "x.pth", state)
    unused = {row.theirs: row.note for row in report.rows if row.outcome == "ignored"}
    assert set(unused) == {f"ema.{key}" for key in state}
    why = "a running average of the weights, which are in the file as well"
    assert set(unused.values()) == {why}
    report = filled({"model": state, "ema": doubled}, tmp_path / "y.pth", state)
    assert [(r.theirs, r.outcome) for r in report.rows if r.theirs == "ema"] == [("ema", "ignored")]
    counted = {"n_averaged": torch.tensor(3), **before("module.", state)}
    assert "n_averaged" in filled(counted, tmp_path / "z.pth", state).unused


def test_half_precision_behind_a_prefix(state, tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(before("module.", half), tmp_path / "x.pth")
    model = network(seed=1)
    load_weights(model, tmp_path / "x.pth")
    assert torch.equal(model.fc.weight, half["fc.weight"].float())


def test_a_described_file_of_a_compiled_network_loads(state, tmp_path):
    model = network()
    save_weights(torch.compile(model), tmp_path / "x", WeightsInfo(config=model.config))
    assert torch.equal(nl.load(tmp_path / "x").fc.weight, state["fc.weight"])


def test_a_prefix_of_some_names_is_no_wrappers(state, tmp_path):
    torch.save(before("model.", state) | {"loss.weight": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"'model\.' is before all of its names but loss\.weight"):
        load_weights(network(), tmp_path / "x.pth")
    torch.save({**state, "model.fc.weight": state["fc.weight"]}, tmp_path / "y.pth")
    with pytest.raises(ValueError, match=r"model\.fc\.weight is not in the network"):
        load_weights(network(), tmp_path / "y.pth")


def test_nothing_that_is_no_tensor_is_dropped_in_silence(state, tmp_path):
    torch.save({**state, "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="epoch is not in the network"):
        load_weights(network(), tmp_path / "x.pth")


@pytest.mark.parametrize("layout", [caffe2, mmaction2, pytorchvideo, slowfast, torchvision])
def test_the_rule_is_that_of_every_layout(layout, tmp_path):
    """Each layout's tensors behind a prefix become what they become without."""
    rules = layout.RULES
    name = "c2d_r50" if layout in (pytorchvideo, torchvision) else "c2d_r50_nl1"
    narrow = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3}
    theirs = {}
    for key, value in nl.create_model(name, **narrow).state_dict().items():
        if (their := rules.to_theirs(key)) is not None:
            flat = layout is torchvision and value.ndim == 5
            theirs[their] = value.squeeze(2) if flat else value
    found = []
    for prefix in ("", "module.", "model._orig_mod."):
        torch.save({"state_dict": before(prefix, theirs)}, tmp_path / "x.pth")
        converted = translate(read_checkpoint(tmp_path / "x.pth"))
        assert converted.unknown == []
        assert {*converted.names.values()} == {prefix + key for key in theirs}
        found.append(converted.shapes())
    assert found[0] == found[1] == found[2]


def test_whole_networks_are_refused_with_what_to_do(tmp_path):
    model = network()
    for content in (model, {"model": model, "epoch": 3}, nn.Sequential(model)):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"torch\.save\(model\.state_dict\(\), file\)"):
            nl.load(tmp_path / "x.pth")
