"""SlowFast, Slow and the I3D of feature banks against the numbers of PySlowFast's own code."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import recipe
import torch

import nonlocalnet as nl
from nonlocalnet.blocks.norm import EPS
from nonlocalnet.checkpoints.formats import caffe2, pyslowfast
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.save import export_weights
from nonlocalnet.networks import slowfast

# What its Caffe2 files do not say.
TOLD = {"clip": "32x2", "alpha": 4, "pairwise": "dot_product", "subsample": (1, 2, 2), "crop": 64}


@pytest.fixture(scope="module")
def given(oracle):
    file = oracle / "families/pyslowfast_SLOWFAST_NLN_8x8_R50"
    return json.loads(file.with_suffix(".json").read_text()), np.load(file.with_suffix(".npz"))


@pytest.fixture(scope="module")
def state(given):
    return {key: torch.from_numpy(value) for key, value in recipe.parameters(given[0]).items()}


@pytest.fixture(scope="module")
def file(given, state, tmp_path_factory):
    path = tmp_path_factory.mktemp("slowfast") / "checkpoint_epoch_00001.pyth"
    content = {"epoch": 0, "model_state": state, "optimizer_state": {}, "cfg": given[0]["cfg"]}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def network(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its configuration says it all
        return nl.load(file)


def difference(network, given) -> np.ndarray:
    clip = torch.from_numpy(recipe.clip(given[0]["input"]["shape"]))
    with torch.no_grad():
        return network(clip).double().numpy() - given[1]["logits_fp64"]


def error(network, given) -> float:
    """The largest difference of the logits, in deviations of the expected."""
    return np.abs(difference(network, given)).max() / given[1]["logits_fp64"].std()


def change(network, given) -> float:
    """The whole difference of the logits, as the manifest counts what mistakes change."""
    expected = given[1]["logits_fp64"]
    return np.linalg.norm(difference(network, given)) / np.linalg.norm(expected - expected.mean())


def test_logits_are_pyslowfasts(network, given):
    assert network.config["name"] == "slowfast_8x8_r50_nl5"
    assert error(network, given) < given[0]["tolerance"]["logits"]


def test_fully_convolutional_probabilities_are_pyslowfasts(network, given):
    # the recipe of a second clip of the same manifest: its own seed
    rng = recipe._generator("crop/input")
    shape = tuple(int(n) for n in given[1]["crop_shape"])
    clip = (0.5 * rng.standard_normal(shape)).astype(np.float32)
    with torch.no_grad():
        p = network.probabilities(torch.from_numpy(clip))
    assert np.abs(p.numpy() - given[1]["crop_prob"]).max() < 2e-5


def test_blobs_of_caffe2_are_the_same_network(network, given, state, tmp_path):
    names = given[0]["c2"]
    blobs = {
        names[k]: LazyTensor(tuple(v.shape), v.dtype, lambda v=v: v)
        for k, v in state.items()
        if k in names
    }
    with (tmp_path / "x.pkl").open("wb") as f:
        caffe2.write(f, blobs)
    with pytest.raises(ValueError, match=r"pass clip=.*alpha=.*pairwise=.*subsample="):
        nl.load(tmp_path / "x.pkl")
    with pytest.warns(UserWarning, match="is assumed"):
        again = nl.load(tmp_path / "x.pkl", **TOLD)
    assert again.config == network.config
    ours = network.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(("format", "told"), [("pyslowfast", {}), ("caffe2", TOLD)])
@pytest.mark.filterwarnings("ignore:.* assumed")
def test_there_and_back(network, tmp_path, format, told):
    export_weights(network, tmp_path / "x", format)
    again = nl.load(tmp_path / "x", **told)
    assert again.config == network.config
    ours = network.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("mistake", "options"),
    [
        ("softmax_instead", {"pairwise": "embedded_gaussian"}),
        ("pool_after_phi_g", {"subsample_position": "after"}),
        ("no_sub_sampling", {"subsample": None}),
        ("stem_pool_padding_0", {"stem_padding": 0}),
    ],
)
def test_a_mistake_changes_the_logits_as_in_pyslowfast(network, given, mistake, options):
    other = nl.create_model(**network.config | options)
    other.load_state_dict(network.state_dict())
    assert change(other.eval(), given) == pytest.approx(given[0]["ablations"][mistake], rel=5e-3)


@pytest.mark.parametrize(
    "options",
    [{"subsample": (2, 2, 2)}, {"temporal_group": {"res3": 4}}, {"dilations": (1, 1, 1, 2)}],
)
def test_another_convention_gives_other_logits(network, given, options):
    other = nl.create_model(**network.config | options)
    other.load_state_dict(network.state_dict())
    assert error(other.eval(), given) > 0.01


def test_every_alpha_th_frame_gives_other_logits(network, given, monkeypatch):
    monkeypatch.setattr(slowfast, "slow_frames", lambda frames, alpha: [*range(0, frames, alpha)])
    expected = given[0]["ablations"]["slow_frames_every_alpha"]
    assert change(network, given) == pytest.approx(expected, rel=5e-3)


def test_another_eps_gives_other_logits(network, given):
    other = nl.create_model(**network.config)
    other.load_state_dict(network.state_dict())
    for module in other.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-3
    assert change(other.eval(), given) == pytest.approx(
        given[0]["ablations"]["bn_eps_1e-3"], rel=5e-3
    )


# --- other settings, run by make_peers.py

PEERS = Path(__file__).parent / "peers"


def peer(name) -> tuple[dict, dict[str, torch.Tensor]]:
    """What the peer computed, and its parameters."""
    content = json.loads((PEERS / f"pyslowfast_{name}.json").read_text())
    rows = content["params"]
    return content, {key: torch.from_numpy(recipe.fill(key, *row)) for key, *row in rows}


def error_of_peer(network, content, of: str = "") -> float:
    expected = np.array(content["logits"])
    with torch.no_grad():
        found = network(torch.from_numpy(recipe.clip(content["clip"])))[0].double().numpy()
    value = np.abs(found - expected).max() / expected.std()
    if of:
        print(f"oracle narrow pyslowfast_{of}: logits {value:.1e}")
    return value


@pytest.mark.parametrize(
    ("name", "mistakes"),
    [
        (
            "slow_r50_nl_groups",
            [{"temporal_group": None}, {"subsample": [1, 2, 2]}, {"temporal_group": {"res4": 2}}],
        ),
        pytest.param(
            "slowfast_r50_nl_dilated",
            [{"temporal_group": None}, {"dilations": None}, {"subsample": [1, 2, 2]}],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_groups_pools_and_dilation_are_pyslowfasts(tmp_path, name, mistakes):
    content, state = peer(name)
    torch.save({"model_state": state, **content["meta"]}, tmp_path / "x.pyth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = nl.load(tmp_path / "x.pyth")
    assert error_of_peer(network, content, name) < 1e-4
    for options in mistakes:
        wrong = nl.create_model(**network.config | options)
        wrong.load_state_dict(network.state_dict())
        assert error_of_peer(wrong.eval(), content) > 1e-2, options


def test_the_network_of_feature_banks_is_as_pyslowfast_says_it(tmp_path):
    """Its file has official names and frozen norms, which are the peer's batch norms folded."""
    content, state = peer("i3d_r50_nl_lfb")
    blobs = {}
    for key, value in state.items():
        norm, _, last = key.rpartition(".")
        if f"{norm}.running_var" in state:
            if last not in ("weight", "bias"):
                continue
            scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPS).sqrt()
            shift = state[f"{norm}.bias"] - scale * state[f"{norm}.running_mean"]
            value = scale if last == "weight" else shift
        name = caffe2.RULES.to_theirs(pyslowfast.RULES.to_ours(key))
        blobs[name] = LazyTensor(tuple(value.shape), value.dtype, lambda value=value: value)
    path = tmp_path / "r50_k400_pretrained.pkl"
    with path.open("wb") as file:
        caffe2.write(file, blobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = nl.load(path)
    assert network.config["name"] == "i3d_r50_nl5_lfb"
    assert error_of_peer(network, content, "i3d_r50_nl_lfb") < 1e-4
    for options in (
        {"temporal_group": None},
        {"dilations": None},
        {"stem_padding": 0},
        {"temporal_stride": 2},
    ):
        wrong = nl.create_model(**network.config | options)
        wrong.load_state_dict(network.state_dict())
        assert error_of_peer(wrong.eval(), content) > 1e-2, options
