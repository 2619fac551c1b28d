"""SlowOnly against the numbers of MMAction2's own code: the network; its files are not read yet."""

import json

import numpy as np
import pytest
import recipe
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.formats.mmaction2 import RULES


@pytest.fixture(scope="module")
def given(oracle):
    file = oracle / "families/mmaction2_slowonly_r50_8x8_nl"
    return json.loads(file.with_suffix(".json").read_text()), np.load(file.with_suffix(".npz"))


def slow(manifest, **options):
    return nl.create_model(
        "slow_r50_nl5_mmaction2",
        num_classes=16,
        clip="8x8",
        widths=(16, 32, 64, 128),
        conv1_channels=16,
        **options,
    ).eval()


def logits(network, given) -> np.ndarray:
    manifest, _ = given
    state = {RULES.to_ours(k): torch.from_numpy(v) for k, v in recipe.parameters(manifest).items()}
    left = network.load_state_dict(state, strict=False)
    # MMAction2 has no bias where a norm follows
    assert left.unexpected_keys == []
    assert all(k.endswith(("w_z.bias", "num_batches_tracked")) for k in left.missing_keys)
    clip = torch.from_numpy(recipe.clip(manifest["input"]["shape"]))
    for key in left.missing_keys:
        network.state_dict()[key].zero_()
    with torch.no_grad():
        return network(clip).double().numpy()


def error(found, given) -> float:
    expected = given[1]["logits_fp64"]
    return np.abs(found - expected).max() / expected.std()


def test_logits_are_mmaction2s(given):
    manifest = given[0]
    assert error(logits(slow(manifest), given), given) < manifest["tolerance"]["logits"]


@pytest.mark.parametrize(
    "options",
    [{"stem_padding": 0}, {"scale": None}, {"subsample_position": "before"}, {"pool2_time": 2}],
)
def test_another_convention_gives_other_logits(given, options):
    assert error(logits(slow(given[0], **options), given), given) > 0.1
