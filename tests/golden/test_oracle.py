"""The official networks' numbers, computed by the official code (oracle/README.md)."""

import gc
import json
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recipe
import torch
from torch import Tensor
from torch.nn import functional as F

import nonlocalnet as nl
from nonlocalnet.checkpoints.formats import caffe2
from nonlocalnet.checkpoints.formats.caffe2 import RULES
from nonlocalnet.checkpoints.resolve import find_arguments

# These run by default: both forms, both splits.
GATE = {("c2d_r50_nl_8f", "val"), ("c2d_r50_nl_8f", "test"), ("i3d_r50_nl_8f_dot", "val")}
VENDORED = {"c2d_r50_nl_8f", "i3d_r50_nl_8f_dot", "i3d_r50_nl_affine_32f", "c2d_r101_8f"}
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


def manifest_of(oracle: Path, name: str) -> dict:
    return json.loads((oracle / "manifests" / f"{name}.json").read_text())


def python2_text(blobs: dict[str, np.ndarray]) -> bytes:
    """A flat dict of arrays as Python 2 writes it in protocol 0, as format/ has it."""

    def text(value: bytes) -> bytes:
        return b"S" + repr(value)[1:].encode("ascii") + b"\n"

    parts = [b"(d"]
    for name, array in blobs.items():
        shape = b"(" + b"".join(b"I%d\n" % n for n in array.shape) + b"t"
        parts += [
            text(name.encode()),
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n",
            shape,
            b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n",
            text(array.tobytes()),
            b"tbs",
        ]
    return b"".join([*parts, b"."])


def python2_training(blobs: dict[str, np.ndarray]) -> bytes:
    """{"blobs": ...} in protocol 2, with the state of the training, as format/ has it."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def array(value: np.ndarray) -> bytes:
        shape = b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in value.shape) + b"t"
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            + shape
            + b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
            + b"\xffK\x00tb\x89"
            + text(value.tobytes())
            + b"tb"
        )

    parts = [b"\x80\x02}U\x05blobs}("]
    for name, value in blobs.items():
        parts += [text(name.encode()), array(value)]
    momentum = np.zeros(3, np.float32)
    for name in ("conv1_w_momentum", "pred_b_momentum"):  # text, beside names of bytes
        parts += [b"X" + len(name).to_bytes(4, "little") + name.encode(), array(momentum)]
    parts += [
        text(b"lr"),
        array(np.array(0.01, np.float32)),
        text(b"model_iter"),
        b"J\x80\x1a\x06\x00",
    ]
    return b"".join([*parts, b"us."])


class Network:
    """One configuration: loaded from a file of the official format, and what it must give."""

    def __init__(self, oracle: Path, name: str, arguments: Callable, folder: Path) -> None:
        self.manifest = manifest_of(oracle, name)
        self.arguments = arguments(self.manifest["effective"])
        self.expected = np.load(oracle / "expected" / f"{name}.npz", allow_pickle=False)
        self.tolerances = TOLERANCES[self.manifest["effective"]["MODEL.DEPTH"]]
        blobs = recipe.parameters(self.manifest)
        frozen = self.manifest["effective"]["MODEL.USE_AFFINE"]
        if name.endswith("32f"):  # the classifier of the test net, of the same numbers
            blobs["pred_w"] = blobs["pred_w"].reshape(*blobs["pred_w"].shape, 1, 1, 1)
        path = folder / f"{name}.pkl"
        path.write_bytes((python2_text if frozen else python2_training)(blobs))
        # what no official file says, and its name is not that of a release
        arguments = find_arguments(self.arguments)
        said = {option: arguments[option] for option in caffe2.UNSAID}
        said |= {"clip": self.arguments["clip"], "mean": (0.45,) * 3, "std": (0.225,) * 3}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is assumed
            self.model = nl.load(path, **said)
        path.unlink()
        asked = {"norm": "batch"} | self.arguments
        config = self.model.config
        assert (config["name"], config["num_classes"]) == (asked["name"], asked["num_classes"])
        assert config.get("norm", "batch") == asked["norm"]
        self.state = self.model.state_dict()

    def build(self, **changes) -> torch.nn.Module:
        """A network that differs in some arguments, with the same parameters."""
        model = nl.create_model(**(self.arguments | changes))
        own = model.state_dict()
        model.load_state_dict({k: v for k, v in self.state.items() if k in own}, strict=False)
        return model.eval()

    def clip(self, split: str) -> Tensor:
        given = self.manifest["input"][split]
        clip = recipe.clip(given["shape"])
        assert recipe.fingerprint(clip) == given["crc32"]
        return torch.from_numpy(clip)


@pytest.fixture(scope="module")
def network(oracle_with, create_arguments, tmp_path_factory):
    """network(name): the last one asked for is kept; parametrized tests ask in that order."""
    kept: dict[str, Network] = {}

    def get(name: str) -> Network:
        if name not in kept:
            kept.clear()
            gc.collect()
            folder = tmp_path_factory.mktemp("oracle")
            oracle = oracle_with(f"manifests/{name}.json")
            kept[name] = Network(oracle, name, create_arguments, folder)
        return kept[name]

    yield get
    kept.clear()


def test_files_written_here_are_of_the_official_form(oracle):
    """The same instructions as the given samples, but for marks of where things are kept."""
    blobs = {"a": np.full(2, 0.5, np.float32)}
    for write, sample in (
        (python2_training, "training_checkpoint_protocol2.pkl"),
        (python2_text, "converted_affine_protocol0.pkl"),
    ):
        theirs = (oracle / "format" / sample).read_bytes()
        used = [
            {op.name for op, _, _ in pickletools.genops(data)} for data in (write(blobs), theirs)
        ]
        assert used[0] - used[1] <= {"BINSTRING", "TUPLE"}
        assert pickle.loads(write(blobs), encoding="latin1")  # and an outside reader takes them


def test_names_of_the_rules_are_all_used(oracle):
    names = {
        row[0]
        for path in (oracle / "manifests").glob("*.json")
        for row in json.loads(path.read_text())["params"]
    }
    assert [name for name in names if RULES.to_theirs(RULES.to_ours(name)) != name] == []


def test_every_configuration_of_the_oracle_is_here(oracle):
    here = {path.stem for path in (oracle / "manifests").glob("*.json")}
    assert here == VENDORED


def test_the_whole_oracle_is_run_and_this_one_is_a_part_of_it(oracle, shared):
    whole = shared / "oracle"
    assert {path.stem for path in (whole / "manifests").glob("*.json")} == set(CONFIGURATIONS)
    own = {"README.md", "wild.json", "mxnet_1_9.params"}  # made of others, or by another program
    for path in (p for p in oracle.rglob("*") if p.is_file() and p.name not in own):
        assert path.read_bytes() == (whole / path.relative_to(oracle)).read_bytes(), path.name


def ours(label: str) -> str:
    """Their name of an intermediate in ours."""
    label = re.sub(r"^nonlocal_conv(\d)_(\d+)_sum$", r"res\1.non_local\2", label)
    return re.sub(r"^res(\d)_(\d+)$", r"res\1.block\2", label)


def summary(x: Tensor) -> dict[str, np.ndarray | float]:
    flat = x.detach().double().flatten().numpy()
    spread = flat[((np.arange(64) + 0.5) * flat.size / 64).astype(int)]
    return {"mean": flat.mean(), "std": flat.std(), "first": flat[:64], "spread": spread}


def roll_rows(block: nl.NonLocalBlock) -> None:
    """Let each row answer for the query before."""
    embed = block.embed

    def rolled(x, mask):
        theta, *rest = embed(x, mask)
        return theta.roll(1, 1), *rest

    block.embed = rolled


@torch.no_grad()
def change_of_logits(net: Network, model: torch.nn.Module) -> float:
    logits = model(net.clip("val")).numpy()
    return float(np.abs(logits - net.expected["val_logits"]).max())


def blocks_of(model):
    return [m for m in model.modules() if isinstance(m, nl.NonLocalBlock)]


# README, "Configurations": the middle columns of c2d_r50_nl_8f and i3d_r50_nl_affine_32f. They
# prove that the test below would see such an error.
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
        roll_rows(block)
    assert change_of_logits(net, model) == pytest.approx(0.440, abs=1e-3)


@pytest.mark.slow
def test_one_temporal_group_moves_the_logits_as_the_oracle_says(network):
    net = network("i3d_r50_nl_affine_32f")
    assert change_of_logits(net, net.build(temporal_group=None)) == pytest.approx(0.066, abs=1e-3)


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
