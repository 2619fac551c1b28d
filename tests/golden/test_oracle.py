"""The official networks' numbers, computed by the official code (shared/oracle/README.md)."""

import gc
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import nonlocalnet as nl
from nonlocalnet.convert.caffe2 import to_state_dict

# These run by default: both norms, both forms, both depths, both splits.
GATE = {
    ("c2d_r50_nl_8f", "val"),
    ("c2d_r50_nl_8f", "test"),
    ("i3d_r50_nl_8f_dot", "val"),
    ("i3d_r50_nl_affine_32f", "val"),
    ("c2d_r101_8f", "val"),
}
CONFIGURATIONS = [
    "c2d_r50_nl_8f",
    "i3d_r50_nl_8f_dot",
    "i3d_r50_nl_affine_32f",
    "c2d_r101_8f",
    "c2d_r50_8f",
    "c2d_r50_nl_org_32f",
    "i3d_r50_8f",
    "i3d_r50_affine_32f",
    "i3d_r50_nl_8f",
    "i3d_r50_nl_32f",
    "i3d_r50_nl_org_32f",
]
RUNS = [
    pytest.param(name, split, marks=() if (name, split) in GATE else pytest.mark.slow)
    for name in CONFIGURATIONS
    for split in ("val", "test")
]

# README, "Tolerances (fp32)": logits / s, softmax, summaries / std, affinity / max, weights.
TOLERANCES = {50: (1e-4, 2e-5, 5e-4, 5e-5, 1e-5), 101: (5e-4, 1e-4, 3e-3, 5e-5, 1e-5)}


def read_recipe(oracle: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("oracle_recipe", oracle / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest_of(oracle: Path, name: str) -> dict:
    return json.loads((oracle / "manifests" / f"{name}.json").read_text())


class Network:
    """One configuration: the network filled by recipe, and what it must give."""

    def __init__(self, oracle: Path, name: str, arguments: Callable[[dict], dict]) -> None:
        self.recipe, self.manifest = read_recipe(oracle), manifest_of(oracle, name)
        self.arguments = arguments(self.manifest["effective"])
        self.expected = np.load(oracle / "expected" / f"{name}.npz", allow_pickle=False)
        self.tolerances = TOLERANCES[self.manifest["effective"]["MODEL.DEPTH"]]
        self.state, unknown = to_state_dict(self.recipe.parameters(self.manifest))
        assert not unknown
        self.model = self.build()

    def build(self, **changes) -> torch.nn.Module:
        """The network, or one that differs in some arguments, with the same parameters."""
        model = nl.create_model(**(self.arguments | changes))
        own = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
        if not changes:
            assert own == set(self.state)
        model.load_state_dict({k: v for k, v in self.state.items() if k in own}, strict=False)
        return model.eval()

    def clip(self, split: str) -> Tensor:
        given = self.manifest["input"][split]
        clip = self.recipe.clip(given["shape"])
        assert self.recipe.fingerprint(clip) == given["crc32"]
        return torch.from_numpy(clip)


@pytest.fixture(scope="module")
def network(oracle, create_arguments):
    """network(name): the last one asked for is kept; parametrised tests ask in that order."""
    kept: dict[str, Network] = {}

    def get(name: str) -> Network:
        if name not in kept:
            kept.clear()
            gc.collect()
            kept[name] = Network(oracle, name, create_arguments)
        return kept[name]

    yield get
    kept.clear()


def test_every_configuration_of_the_oracle_is_here(oracle):
    assert {path.stem for path in (oracle / "manifests").glob("*.json")} == set(CONFIGURATIONS)


def ours(label: str) -> str:
    """Their name of an intermediate in ours."""
    label = re.sub(r"^nonlocal_conv(\d)_(\d+)_sum$", r"res\1.non_local\2", label)
    return re.sub(r"^res(\d)_(\d+)$", r"res\1.block\2", label)


def summary(x: Tensor) -> dict[str, np.ndarray | float]:
    flat = x.detach().double().flatten().numpy()
    spread = flat[((np.arange(64) + 0.5) * flat.size / 64).astype(int)]
    return {"mean": flat.mean(), "std": flat.std(), "first": flat[:64], "spread": spread}


@pytest.mark.parametrize(("name", "split"), RUNS)
@torch.no_grad()
def test_official_network(network, name, split):
    net = network(name)
    logits_within, softmax_within, summary_within, affinity_within, weights_within = net.tolerances

    def expected(key):
        return net.expected[f"{split}_{key}"]

    out: dict[str, Tensor] = {}
    last = net.model.features(net.clip(split), out)
    window = (last.shape[2], 7, 7)
    out["pool5"] = F.avg_pool3d(last, window, stride=1)

    for i, label in enumerate(expected("labels")):
        x = out[ours(label)]
        assert tuple(x.shape) == tuple(expected("shapes")[i]), label
        std = expected("std")[i]
        for kind, value in summary(x).items():
            error = np.abs(value - expected(kind)[i]).max() / std
            assert error <= summary_within, (label, kind)

    # the head by its own methods, on the features at hand
    net.model.features = lambda x: last
    try:
        logits, p = net.model.logits_map(last), net.model.probabilities(last)
        forward = net.model(last)
    finally:
        del net.model.features
    s = expected("logits").std()
    if split == "val":
        assert logits.shape[2:] == (1, 1)
        assert np.abs(forward.numpy() - expected("logits")).max() / s <= logits_within
        logits = logits[:, :, 0, 0]
    else:
        logits = logits.unsqueeze(2)  # (B, K, 1, 2, 2)
    assert logits.shape == expected("logits").shape
    logits_error = np.abs(logits.numpy() - expected("logits")).max() / s
    softmax_error = np.abs(p.numpy() - expected("softmax")).max()
    print(f"oracle {name} {split}: logits {logits_error:.1e}, softmax {softmax_error:.1e}")
    assert logits_error <= logits_within
    assert softmax_error <= softmax_within

    if f"{split}_attention_block" not in net.expected:
        assert "nl" not in net.arguments["name"]
        return
    stage, i = re.fullmatch(r"nonlocal_conv(\d)_(\d+)", str(expected("attention_block"))).groups()
    block = net.model.get_submodule(f"res{stage}.non_local{i}")
    x = out[f"res{stage}.block{i}"]
    rows = torch.as_tensor(expected("attention_rows"))
    weights = block.affinity(x, queries=rows)
    theta, phi = block.theta(x), block.phi(F.max_pool3d(x, (1, 2, 2)))
    batches, queries, keys = expected("attention_affinity_shape")
    first_and_last = []
    for group in (0, -1):  # one clip, cut in time into `batches` groups
        t, f = (v[0].chunk(batches, dim=1)[group].flatten(1) for v in (theta, phi))
        assert (t.shape[1], f.shape[1]) == (queries, keys)
        first_and_last.append(t[:, rows].mT @ f)
    softmax = net.manifest["effective"]["NONLOCAL.USE_SOFTMAX"]
    affinity = torch.stack(first_and_last) * (theta.shape[1] ** -0.5 if softmax else 1)
    assert weights.shape == (batches, len(rows), keys)
    for actual, key in ((affinity, "attention_affinity"), (weights, "attention_weights")):
        actual = actual[[0, -1], :, :128].numpy()
        error = np.abs(actual - expected(key)).max()
        if key == "attention_affinity":
            assert error / np.abs(expected(key)).max() <= affinity_within
        else:
            assert error <= weights_within


class Rolled(torch.nn.Module):
    """A projection whose rows answer for the query before."""

    def __init__(self, conv: torch.nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        theta = self.conv(x)
        return theta.flatten(2).roll(1, 2).view_as(theta)


@torch.no_grad()
def change_of_logits(net: Network, model: torch.nn.Module) -> float:
    logits = model(net.clip("val")).numpy()
    return float(np.abs(logits - net.expected["val_logits"]).max())


def blocks_of(model):
    return [m for m in model.modules() if isinstance(m, nl.NonLocalBlock)]


# README, "Configurations": the middle columns of c2d_r50_nl_8f and i3d_r50_nl_affine_32f. They
# prove that the test above would see such an error.
def test_leaving_out_the_blocks_moves_the_logits_as_the_oracle_says(network):
    net = network("c2d_r50_nl_8f")
    assert change_of_logits(net, net.build(name="c2d_r50")) == pytest.approx(4.255, abs=1e-3)


@pytest.mark.slow
def test_uniform_rows_move_the_logits_as_the_oracle_says(network):
    net = network("c2d_r50_nl_8f")
    model = net.build(crop=224, dropout=0.0)
    for block in blocks_of(model):
        torch.nn.init.zeros_(block.theta.weight)
        torch.nn.init.zeros_(block.theta.bias)
    assert change_of_logits(net, model) == pytest.approx(0.651, abs=1e-3)


@pytest.mark.slow
def test_rolled_rows_move_the_logits_as_the_oracle_says(network):
    net = network("c2d_r50_nl_8f")
    model = net.build(crop=224, dropout=0.0)
    for block in blocks_of(model):
        block.theta = Rolled(block.theta)
    assert change_of_logits(net, model) == pytest.approx(0.440, abs=1e-3)


@pytest.mark.slow
def test_one_temporal_group_moves_the_logits_as_the_oracle_says(network):
    net = network("i3d_r50_nl_affine_32f")
    assert change_of_logits(net, net.build(temporal_group=None)) == pytest.approx(0.066, abs=1e-3)
