"""Positions and frames shared out over two and four processes (gloo), equal to one process."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn

import nonlocalnet as nl
from sharing_cases import CASES, chosen

SCRIPT = Path(__file__).parents[2] / "sharing_cases.py"


@pytest.fixture(scope="module")
def failures(request, tmp_path_factory):
    """What failed in each case: the processes run once for all of them."""
    slow = any(item.get_closest_marker("slow") for item in request.session.items
               if item.path == request.path)  # fmt: skip
    results = tmp_path_factory.mktemp("sharing") / "results.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, results, "all" if slow else "gate"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(results.read_text())


GATE = chosen("gate")


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(
    "name", [name if name in GATE else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_equal_to_one_process(failures, name, processes):
    assert failures[f"{name}-{processes}"] == ""


@pytest.fixture
def alone():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nl.NonLocalBlock(32, norm="group"), r"norm \(GroupNorm\) .* statistics over all frames"),
        (nn.Sequential(nn.InstanceNorm3d(2)), r"0 \(InstanceNorm3d\) .* over all frames"),
        (nn.AdaptiveAvgPool3d(2), r"this AdaptiveAvgPool3d .* pools over time: its output_size"),
        (nn.AdaptiveMaxPool3d(1), "this AdaptiveMaxPool3d .* pools over time"),
        (nn.ConvTranspose3d(1, 1, 3), "this ConvTranspose3d .* reads several frames"),
        (nn.MaxPool3d(2, return_indices=True), "returns indices of frames"),
        (nn.Conv3d(1, 1, 3, padding=1, padding_mode="circular"), "padding_mode='circular', not"),
        (nn.GRU(2, 2), "mixes the steps of a sequence"),
        (nn.SyncBatchNorm(2), "convert it with the group of the frames"),
        (nl.create_model("slowfast_4x16_r50"), "this SlowFast .* from all over the clip"),
        (nn.Conv2d(1, 1, 3), "no layer of this Conv2d sees several frames"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_needs_all_frames_is_named(alone, network, message):
    kinds = [type(module) for module in network.modules()]
    with pytest.raises(ValueError, match=message):
        nl.share_frames(network, alone)
    assert [type(module) for module in network.modules()] == kinds


def test_other_groups_are_errors(alone):
    block, x = nl.NonLocalBlock(4), torch.randn(1, 2, 2)
    for group in ("world", 3):
        with pytest.raises(
            ValueError, match=rf"process group of torch.distributed .* got '?{group}"
        ):
            nl.share_frames(block, group)
        with pytest.raises(ValueError, match=r"process group of torch\.distributed"):
            nl.non_local(x, x, x, group=group)
    with pytest.raises(ValueError, match=r"no frames .* before dist.init_process_group"):
        nl.share_frames(block, None)


def test_copies_and_state_of_a_network_with_shared_frames(alone):
    network = nl.create_model("i3d_tiny_nl2", num_classes=3, clip="8x2", crop=32).eval()
    clip, state = torch.randn(1, 3, 8, 32, 32), network.state_dict()
    expected = network(clip)
    assert "res3.non_local0" in nl.share_frames(network, alone)
    assert network.state_dict().keys() == state.keys()
    other = copy.deepcopy(network)
    for each in (network, other):
        torch.testing.assert_close(each(clip), expected)
    with pytest.raises(TypeError, match=r"call nl.share_frames\(network, None\) first"):
        pickle.dumps(network)
    with pytest.raises(ValueError, match="has its frames shared out"):
        nl.Stream(network)
    nl.share_frames(network, alone)  # again
    nl.share_frames(network, None)
    assert network(clip).equal(expected)
    pickle.loads(pickle.dumps(network))
    torch.testing.assert_close(other(clip), expected)


def test_an_export_is_refused(alone, monkeypatch):
    block = nl.NonLocalBlock(4, dims=1, norm=None).eval()
    nl.share_frames(block, alone)
    monkeypatch.setattr("nonlocalnet.ops.sharing.recording", lambda: True)
    with pytest.raises(ValueError, match="an exported program computes in one process"):
        block(torch.randn(1, 4, 5))
