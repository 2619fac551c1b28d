"""A C2D network with causal blocks: online, frame by frame, equal to the whole video."""

import pytest
import torch
from torch import Tensor, nn

import nonlocalnet as nl
from nonlocalnet.networks.slowfast import SlowFast
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.ops import PAIRWISE

EXACT = {"rtol": 1e-10, "atol": 1e-10}
TINY = {
    "num_classes": 3,
    "depths": (1, 2),
    "widths": (2, 4),
    "conv1_channels": 4,
    "pool2_time": 1,
    "extent": "causal",
    "window": 2,
}


def network(kind=VideoResNet, **options) -> VideoResNet:
    """A tiny network in float64 with nothing zero."""
    torch.manual_seed(0)
    net = kind(**TINY | {"non_local": {"res2": [0], "res3": [0, 1]}} | options).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nl.NonLocalBlock):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
    nn.init.normal_(net.fc.weight)
    return net.eval().requires_grad_(False)


def video(frames: int, side: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, frames, side, side, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_online_equals_offline(pairwise):
    net, x = network(pairwise=pairwise), video(12, side=32)
    stream, start = nl.Stream(net), 0
    for count in (1, 4, 2, 5):
        logits, start = stream(x[:, :, start : start + count]), start + count
        torch.testing.assert_close(logits, net(x[:, :, :start]), **EXACT)
    stream.reset()
    maps, offline = [], net.features(x)
    assert offline[:, :, 1:].ne(net.features(x[:, :, 1:])).any()  # the blocks look back
    with stream:
        for frames in x.split(5, dim=2):
            out = {}
            maps.append(net.features(frames, out))
            assert out["res3.non_local1"].shape[2] == frames.shape[2]
    torch.testing.assert_close(torch.cat(maps, 2), offline, **EXACT)


def test_a_thousand_frames_online():
    net, x = network(pairwise="dot_product"), video(1000, side=12)
    stream = nl.Stream(net)
    for frames in x.split(3, dim=2):
        logits = stream(frames)
    torch.testing.assert_close(logits, net(x), **EXACT)


@pytest.mark.parametrize("clip", ["8x8", "32x2", "64x1"])
def test_networks_by_name_with_causal_blocks_can_stream(clip):
    net = nl.create_model("c2d_tiny_nl2", num_classes=3, clip=clip, extent="causal").eval()
    assert nl.Stream(net).difference(video(3, side=32).float()) < 1e-4
    asked = nl.create_model("c2d_tiny_nl2", num_classes=3, extent="causal", pool2_time=2).eval()
    with pytest.raises(ValueError, match="pool2"):
        nl.Stream(asked)


@pytest.mark.parametrize("head", ["logits_map", "probabilities"])
def test_other_heads_are_of_all_frames_so_far(head):
    net, x = network(), video(5, side=40)
    stream = nl.Stream(net)
    for t, frame in enumerate(x.split(1, dim=2), start=1):
        with stream:
            found = getattr(net, head)(frame)
        torch.testing.assert_close(found, getattr(net, head)(x[:, :, :t]), **EXACT)
    assert (found[0, 0].numel() > 1) == (head == "logits_map")


def test_a_window_classifies_the_last_frames():
    net, x = network(non_local={}), video(7)
    stream = nl.Stream(net, window=3)
    for t, frame in enumerate(x.split(1, dim=2)):
        torch.testing.assert_close(stream(frame), net(x[:, :, max(t - 2, 0) : t + 1]), **EXACT)


def test_an_error_in_the_middle_of_a_network_leaves_no_trace():
    net, x = network(), video(3)
    stream = nl.Stream(net)
    stream(x[:, :, :1])
    handle = net.res3.block1.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream(x[:, :, 1:])
    handle.remove()
    torch.testing.assert_close(stream(x[:, :, 1:]), net(x), **EXACT)


class Own(nn.Module):
    """A network with code of its own after a causal block."""

    def __init__(self, block, compute):
        super().__init__()
        self.block, self.compute = block, compute

    def forward(self, x):
        return self.compute(self.block(x))


def test_difference_tells_whether_a_network_computes_frames_together():
    net, x = network(), video(4)
    stream = nl.Stream(net)
    logits = stream(x)
    assert stream.difference(x[:, :, :3]) < 1e-12
    torch.testing.assert_close(stream(x), net(torch.cat([x, x], 2)), **EXACT)
    assert not torch.equal(logits, net(x[:, :, :3]))
    block = network().res2.non_local0
    maps = torch.randn(1, 8, 4, 3, 3, dtype=torch.float64)
    assert nl.Stream(Own(block, torch.relu)).difference(maps) < 1e-12
    assert nl.Stream(Own(block, lambda x: x.mean((2, 3, 4)))).difference(maps) > 0.01
    assert nl.Stream(Own(block, lambda x: x - x.mean(2, keepdim=True))).difference(maps) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool2_time": 2}, r"^pool2 \(MaxPool3d\) .* kernel_size in time is 2"),
        ({"temporal_stride": 2}, r"^conv1 \(Conv3d\) .* stride in time is 2"),
        ({"kernels_a": [[1], [1, 3]]}, r"^res3\.block1\.conv_a \(Conv3d\) .* in time is 3"),
        ({"shift_div": 2}, r"^res2\.block0 \(Bottleneck\) .* shifts channels between frames"),
        ({"extent": "spacetime"}, r"^res2\.non_local0 \(NonLocalBlock\) .* attends to later"),
        ({"block_norm": "group"}, r"^res2\.non_local0\.norm \(GroupNorm\) .* over all frames"),
        (
            {"kind": SlowFast, "alpha": 1, "beta": 2, "lateral_kernel": 1, "norm": "frozen"},
            r"^this SlowFast .* all over the clip",
        ),
    ],
    ids=str,
)
def test_networks_that_compute_frames_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nl.Stream(network(**options))


def test_training_is_refused():
    stream = nl.Stream(network())
    stream.module.train()
    with pytest.raises(ValueError, match=r"^norm1 \(BatchNorm3d\) .*call eval\(\)"):
        stream(video(1))
