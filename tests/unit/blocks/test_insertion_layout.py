"""Where the axes of a module's output are: channels last, tokens, and what cannot be told."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.models import convnext, vision_transformer
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video.swin_transformer import SwinTransformer3d
from torchvision.ops import Permute

import nonlocalnet as nl
from nonlocalnet.inspection.analysis import analyze

AXES = {  # of the batch and the channels
    "channels_first": (0, 1),
    "channels_last": (0, -1),
    "tokens": (0, -1),
    "tokens_first": (1, -1),
}


def rand(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def add(network, after, **options):
    return nl.add_non_local(network, after, verbose=False, **options)


def found(places):
    return [(place.layout, place.shape) for place in places]


def wake(network: nn.Module) -> None:
    for block in network.modules():
        if isinstance(block, nl.NonLocalBlock):
            for k, parameter in enumerate(block.parameters()):
                parameter.data.copy_(rand(*parameter.shape, seed=k) * 0.3)


class ByHand(nn.Module):
    """A block with its module, and what a user would write around it."""

    def __init__(self, module: nn.Module, block: nn.Module, layout: str) -> None:
        super().__init__()
        self.module, self.block, self.axes = module, copy.deepcopy(block), AXES[layout]
        self.block._forward_hooks.clear()
        self.block._forward_pre_hooks.clear()

    def forward(self, *args, **kwargs):
        x = self.module(*args, **kwargs)
        return self.block(x.movedim(self.axes, (0, 1))).movedim((0, 1), self.axes)


def swin() -> nn.Module:
    return SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5)


def swin_3d() -> nn.Module:
    return SwinTransformer3d([2, 4, 4], 24, [1, 1], [2, 2], [2, 4, 4], num_classes=5)


def strict_swin() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.models.swin_transformer.SwinTransformer(
        32, 4, embed_dim=24, depths=(1, 1), num_heads=(2, 2), window_size=4, num_classes=5
    )


def conv_next() -> nn.Module:
    setting = [convnext.CNBlockConfig(12, None, 2)]
    return convnext.ConvNeXt(setting, layer_scale=1.0, num_classes=5)


def vit() -> nn.Module:
    network = vision_transformer.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)
    nn.init.normal_(network.heads.head.weight)  # zero at first
    return network


def square() -> nn.Module:
    """Channels last, with as many channels as rows and columns."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        Permute([0, 2, 3, 1]),
        nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)),
        nn.GELU(),
    )


def time_first() -> nn.Module:
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    return nn.Sequential(nn.Linear(5, 8), encoder, nn.Linear(8, 3))


class FramesAsImages(nn.Module):
    """Frames (B, T, 3, H, W) as (B * T, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean((1, 3, 4))


class Reader(nn.Module):
    """Rows of text: its height is fixed by a layer at the end, its width is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.columns = nn.Flatten(1, 2)
        self.fc = nn.Linear(4 * 8, 5)

    def forward(self, x):
        return self.fc(self.columns(self.conv(x)).mT)


class Fixed(nn.Module):
    """A layer at the end fixes the size: what ran before it was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), Permute([0, 2, 3, 1]))
        self.fc = nn.Linear(8 * 8 * 8, 5)

    def forward(self, x):
        return self.fc(self.layers(x).relu().flatten(1))


FOUND = {
    "swin": (swin, "features.1 features.2 features.3.0.attn permute", rand(1, 3, 32, 32),
             [("channels_last", (8, 8, 24)), ("channels_last", (4, 4, 48)),
              ("channels_last", (4, 4, 48)), ("channels_first", (48, 4, 4))]),
    "swin_3d": (swin_3d, "features.0 features.1", rand(1, 3, 4, 24, 32),
                [("channels_last", (2, 6, 8, 24)), ("channels_last", (2, 3, 4, 48))]),
    "strict swin": (strict_swin, "patch_embed layers.0 layers.1.blocks.0", rand(1, 3, 32, 32),
                    [("channels_last", (8, 8, 24)), ("channels_last", (8, 8, 24)),
                     ("channels_last", (4, 4, 48))]),
    "convnext": (conv_next, "features.1.0.block.0 features.1.0.block.2 features.1.0.block.3 "
                 "features.1.0.block", rand(1, 3, 32, 32),
                 [("channels_first", (12, 8, 8)), ("channels_first", (12, 8, 8)),
                  ("channels_last", (8, 8, 12)), ("channels_last", (8, 8, 48))]),
    "square": (square, "0 1 2 3", rand(1, 3, 8, 8),
               [("channels_first", (8, 8, 8)), *[("channels_last", (8, 8, 8))] * 3]),
    "cells": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(4)), "1",
              rand(2, 3, 5, 4).contiguous(memory_format=torch.channels_last),
              [("channels_first", (8, 1, 1))]),
    "long clips of as many frames as colors": (
        lambda: nn.Sequential(nn.Conv3d(3, 6, 1), nn.ReLU()), "1", rand(3, 3, 3, 3, 3),
        [("channels_first", (6, 3, 3, 3))]),
    "frames as images": (FramesAsImages, "conv", rand(2, 4, 3, 6, 6),
                         [("channels_first", (6, 6, 6))]),
    "rows of text": (Reader, "columns", rand(1, 1, 8, 8), [("channels_first", (32, 8))]),
    "fixed by a later layer": (Fixed, "layers.0 layers.1", rand(1, 3, 8, 8),
                               [("channels_first", (8, 8, 8)), ("channels_last", (8, 8, 8))]),
    "input channels last": (
        lambda: nn.Sequential(Permute([0, 3, 1, 2]), nn.Conv2d(3, 4, 1)), "1", rand(1, 8, 8, 3),
        [("channels_first", (4, 8, 8))]),
    "pooled to one size": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(2), nn.ReLU()), "1 2",
        rand(1, 3, 8, 8), [("channels_first", (6, 2, 2))] * 2),
}  # fmt: skip

TOKENS = {
    "vit": (vit, "encoder.layers.encoder_layer_0", rand(1, 3, 32, 32), "tokens", (17, 24)),
    "words": (lambda: nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4)), "0",
              torch.arange(8).view(1, 8), "tokens", (8, 6)),
    "time first": (time_first, "1", rand(7, 2, 5), "tokens_first", (7, 8)),
    "time put first": (
        lambda: nn.Sequential(nn.Conv1d(5, 8, 1), Permute([2, 0, 1]), nn.Linear(8, 3)), "2",
        rand(2, 5, 7), "tokens_first", (7, 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_the_layout_is_found(case):
    make, after, x, expected = FOUND[case]
    torch.manual_seed(0)
    network = make().eval()
    plain = copy.deepcopy(network)
    places = add(network, after.split(), example=x)
    assert sorted(found(places)) == sorted(expected)
    check_computes_as_by_hand(network, plain, places, x)


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_get_a_block_if_asked(case):
    make, after, x, layout, shape = TOKENS[case]
    torch.manual_seed(0)
    network = make().eval()
    plain, state = copy.deepcopy(network), network.state_dict().keys()
    with pytest.raises(ValueError, match=rf"{after}.*it gives tokens .*: pass layout='{layout}'"):
        add(network, after, example=x)
    assert network.state_dict().keys() == state
    others = {"channels_first", "tokens", "tokens_first", "channels_last"} - {layout}
    for wrong in others - ({"channels_last"} if layout == "tokens" else set()):
        if case == "vit" and wrong == "channels_first":
            continue  # of one size only: nothing speaks against it
        with pytest.raises(ValueError, match=f"{after}.*(layout='{wrong}' takes|the batch is)"):
            add(network, after, example=x, layout=wrong)
    places = add(network, after, example=x, layout=layout)
    assert found(places) == [(layout, shape)]
    assert network.get_submodule(after).non_local.dims == 1
    check_computes_as_by_hand(network, plain, places, x)


def check_computes_as_by_hand(network, plain, places, x):
    """The identity at first, then what a block between two permutations gives."""
    assert torch.equal(network(x), plain(x))
    wake(network)
    by_hand = plain
    for place in places[::-1]:  # children before parents would be found no more
        parent, _, name = place.path.rpartition(".")
        block = network.get_submodule(f"{place.path}.non_local")
        new = ByHand(by_hand.get_submodule(place.path), block, place.layout)
        setattr(by_hand.get_submodule(parent), name, new)
    z = network(x)
    torch.testing.assert_close(z, by_hand(x))
    nl.remove_non_local(network)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert not torch.equal(network(x), z)


def test_places_beside_those_of_another_layout_take_inputs_of_other_sizes():
    network = swin().eval()
    add(network, ["features.?", "permute"], example=rand(1, 3, 32, 32))
    wake(network)
    assert network(rand(2, 3, 48, 64)).shape == (2, 5)


def test_the_default_example_will_do():
    assert found(add(swin(), "features.1")) == [("channels_last", (16, 16, 24))]


def test_the_table_tells_the_layout():
    lines = str(add(square(), ["0", "2"])).splitlines()
    assert [line.split()[2:6] for line in lines[1:]] == [
        ["x", "64", "x", "64"], ["x", "64", "x", "8"],
    ]  # fmt: skip
    assert [line.split()[6:9] for line in lines[1:]] == [
        ["channels_first", "2", "8"], ["channels_last", "2", "8"],
    ]  # fmt: skip


# What others do with such a network


@pytest.fixture
def last():
    torch.manual_seed(0)
    network = square()
    add(network, ["2", "3"], subsample=2)
    wake(network)
    return network.eval(), rand(2, 3, 6, 8)


def test_maps_keep_their_order_in_memory(last):
    network, x = last
    seen = []
    for place in (network[2], network[3]):
        place.register_forward_hook(lambda _, __, z: seen.append(z))
    network(x)
    assert [tuple(z.shape) for z in seen] == [(2, 6, 8, 8)] * 2
    assert all(z.is_contiguous() for z in seen)


def test_names_of_the_weights_are_those_of_any_block(last):
    network, _ = last
    assert network.state_dict().keys() >= {"2.non_local.theta.weight", "3.non_local.norm.bias"}


def test_it_prints_its_layout(last):
    assert "layout='channels_last'" in repr(last[0][2].non_local)
    add(network := square(), "0")
    assert "layout" not in repr(network[0].non_local)


def test_copied_and_pickled(last):
    network, x = last
    expected = network(x)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), expected)
        assert nl.remove_non_local(twin) == ("2", "3")
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())


@pytest.mark.slow  # test_exported finds what breaks a graph
def test_compiled_and_trained(last):
    network, x = last
    network(x).square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    z = torch.compile(network, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(z, network(x))
    z.square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_feature_extraction_takes_blocks_whole(last):
    from torchvision.models.feature_extraction import create_feature_extractor

    network, x = last
    leaves = {"leaf_modules": [nl.NonLocalBlock]}
    nodes = {"2.non_local": "inner", "3": "out"}
    features = create_feature_extractor(network, nodes, tracer_kwargs=leaves)(x)
    assert features["inner"].shape == (2, 6, 8, 8)
    assert torch.equal(features["out"], network(x))


def test_exported(last):
    network, x = last
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))


def test_looked_at(last):
    network, x = last
    analysis = analyze(network, x[0])
    attention = analysis.block("2.non_local").attention((2, 4))
    u = network[2][1](network[2][0](network[1](network[0](x[:1]))))
    block = copy.deepcopy(network[2].non_local)
    block._forward_pre_hooks.clear()
    expected = block.affinity(u.movedim(-1, 1), torch.tensor([2 * 8 + 4]))
    torch.testing.assert_close(attention.weights.flatten(), expected.flatten())


# What cannot be told, or not be done


def turned(*axes, then=None):
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Permute(list(axes)), then or nn.Identity())


class Windows(nn.Module):
    """Windows of 2 x 2 as a batch of tokens; neither axis of a window changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.cut = nn.PixelUnshuffle(2)
        self.windows = nn.Identity()

    def forward(self, x):
        x = self.cut(self.conv(x)).unflatten(1, (8, 4))
        return self.windows(x.permute(0, 3, 4, 2, 1).flatten(0, 2)).mean(0)


class OneSize(nn.Module):
    """Takes 8 x 8 only, and has nothing that tells."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)

    def forward(self, x):
        assert x.shape[1:] == (4, 8, 8), "of one size"
        return self.fc(x)


UNCLEAR = {
    "pooled": (lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(2)), "1",
               rand(1, 3, 8, 8), r"\(1, 2, 2, 2\) is channels .* axes 1 and 2 and 3 stay .*'chan"),
    "one size": (OneSize, "fc", rand(1, 4, 8, 8),
                 r"which axis of .* 8, 6\) .*: pass layout=, one of 'channels_first', 'channels_l"),
    "windows": (Windows, "windows", rand(1, 3, 8, 8), r"axes 1 and 2 stay .*'tokens_first'$"),
    "in the middle": (turned(0, 2, 1, 3), "2", rand(1, 3, 8, 8), r"and axis 2 is channels; a bl"),
    "no channels": (turned(0, 1, 2, 3, then=nn.Flatten(1, 2)), "2", rand(1, 3, 8, 8),
                    r"every axis of its output \(1, 64, 8\) changes with"),
    "the batch last": (turned(2, 3, 1, 0), "2", rand(1, 3, 8, 8), r"axis 3 .* is the batch"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_cannot_be_told_is_refused(case):
    make, after, x, said = UNCLEAR[case]
    with pytest.raises(ValueError, match=said) as refusal:
        add(make(), after, example=x)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("case", "layout", "shape"),
    [
        ("pooled", "channels_first", (2, 2, 2)),
        ("one size", "channels_last", (4, 8, 6)),
        ("windows", "tokens", (4, 8)),
    ],
)
def test_what_cannot_be_told_can_be_said(case, layout, shape):
    make, after, x, _ = UNCLEAR[case]
    network = make().eval()
    expected = network(x)
    assert found(add(network, after, example=x, layout=layout)) == [(layout, shape)]
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize(
    ("layout", "after", "said"),
    [
        ("channels_last", "0", r"layout='channels_last' takes axis 3 of its output \(1, 8, 6, 6\)"),
        ("channels_first", "2", r"layout='channels_first' takes axis 1 of its .* changes with"),
        ("tokens", "2", r"layout='tokens' is of outputs with 3 axes; it gives \(1, 6, 6, 8\)"),
        ("NHWC", "2", r"layout must be one of 'channels_first', .*; got 'NHWC'"),
    ],
)
def test_a_layout_that_does_not_fit(layout, after, said):
    network = square()
    with pytest.raises(ValueError, match=said):
        add(network, after, example=rand(1, 3, 6, 6), layout=layout)
    assert nl.remove_non_local(network) == ()


def test_modules_that_run_several_times():
    class Twice(nn.Module):
        def __init__(self, pool):
            super().__init__()
            self.norm, self.pool = nn.Sequential(nn.LayerNorm(8)), pool

        def forward(self, x):
            return self.norm(x).mean((1, 2)) + self.norm(self.pool(x)).mean((1, 2))

    network = nn.Sequential(nn.Conv2d(3, 8, 1), Permute([0, 2, 3, 1]), Twice(nn.Identity()))
    network[2].pool = Permute([0, 2, 1, 3])
    assert found(add(network, "2.norm", example=rand(1, 3, 4, 8))) == [("channels_last", (4, 8, 8))]
