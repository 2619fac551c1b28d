"""An accelerated block is the same module that computes in another way, and can be given back."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import nonlocalnet as nl
import stand_ins as wild
from nonlocalnet.acceleration.attend import attend
from nonlocalnet.acceleration.calls import observed
from nonlocalnet.acceleration.families.base import SMALL

SIZE = (24, 24)  # enough pairs for the operation
assert SMALL < (24 * 24) ** 2
CLOSE = {"atol": 1e-11, "rtol": 1e-9}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.attn = wild.AttnBlock(32)
        self.non_local = wild.TextbookBlock(32, 2, "embedded_gaussian", True, True)

    def forward(self, x: Tensor) -> Tensor:
        return self.non_local(self.attn(self.first(x)))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def used(network: nn.Module, x: Tensor) -> int:
    """How many blocks the operation computed."""
    seen = []

    def observer(module: nn.Module) -> Callable:
        def record(*args, **kwargs):
            seen.append(module)
            return attend(*args, **kwargs)

        return record

    with observed(observer), torch.no_grad():
        network(x)
    return len(seen)


def step(network: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    network.zero_grad()
    network(x).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_buffers_are_equal(network, x, training):
    before = copy.deepcopy(network).train(training)
    found = nl.accelerate(network.train(training), verbose=False)
    assert [f.path for f in found.accelerated] == ["attn", "non_local"]
    assert all(f.difference is not None and f.difference < 1e-9 for f in found)
    torch.testing.assert_close(network(x), before(x), **CLOSE)
    for (name, a), b in zip(step(network, x).items(), step(before, x).values(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE, msg=name)
    for (name, a), b in zip(
        network.state_dict().items(), before.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, **CLOSE, msg=name)


def test_large_maps_in_float32_without_gradients(network, x):
    """The implementation that keeps no matrix."""
    network, x = network.float().eval(), x.float()
    with torch.no_grad():
        expected = network(x)
        nl.accelerate(network, verbose=False)
        torch.testing.assert_close(network(x), expected, atol=5e-5, rtol=1e-4)


def test_nothing_but_the_class_changes(network):
    modules = dict(network.named_modules())
    attributes = {name: dict(vars(module)) for name, module in modules.items()}
    parameters = {name: (id(p), p.clone()) for name, p in network.named_parameters()}
    random = torch.get_rng_state()
    text = repr(network)
    nl.accelerate(network, verbose=False)
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(network) == text
    assert isinstance(network.attn, wild.AttnBlock)
    assert type(network.attn).__qualname__ == "AttnBlock"
    assert {k: id(m) for k, m in network.named_modules()} == {k: id(m) for k, m in modules.items()}
    for name, module in network.named_modules():
        assert dict(vars(module)) == attributes[name]
    for name, parameter in network.named_parameters():
        assert id(parameter) == parameters[name][0]
        assert torch.equal(parameter, parameters[name][1])
        assert parameter.grad is None


def test_twice_is_once_and_restore_leaves_no_trace(network, x):
    kinds = [type(module) for module in network.modules()]
    once = nl.accelerate(network, verbose=False)
    accelerated = [type(module) for module in network.modules()]
    assert nl.accelerate(network, verbose=False) == once
    assert [type(module) for module in network.modules()] == accelerated
    assert nl.restore(network) == ("attn", "non_local")
    assert [type(module) for module in network.modules()] == kinds
    assert nl.restore(network) == ()
    assert used(network, x) == 0


def test_a_dry_run_reports_only(network, x):
    kinds = [type(module) for module in network.modules()]
    found = nl.accelerate(network, dry_run=True, example=x, verbose=False)
    assert [type(module) for module in network.modules()] == kinds
    assert [f.positions for f in found] == [(576, 576), (576, 144)]
    assert [f.before for f in found] == [12 * 2 * 576 * 576, 12 * 2 * 576 * 144]


def test_the_report_is_printed(network, capsys):
    found = nl.accelerate(network)
    printed = capsys.readouterr().out
    assert printed == f"{found}\n"
    assert "attn" in printed
    assert "AttnBlock" in printed
    assert "4,096 x 1,024" in printed  # keys of the second block are pooled
    assert "for a map of 4,096 positions" in printed


def pickled(network: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(network))


def saved(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
def test_copies_are_accelerated_and_independent(network, x, copied):
    nl.accelerate(network, verbose=False)
    other = copied(network.eval())
    assert type(other.attn) is type(network.attn)
    assert torch.equal(other(x), network(x))
    assert used(other, x) == 2
    with torch.no_grad():
        other.attn.proj_out.weight.zero_()
    assert not torch.equal(other(x), network(x))
    nl.restore(other)
    assert type(other.attn) is wild.AttnBlock
    assert used(network, x) == 2


def test_hooks_on_the_block_and_on_every_child_run_once(network, x):
    calls: dict[str, list[torch.Size]] = {}

    def hook(name: str) -> Callable:
        return lambda _, args, output: calls.setdefault(name, []).append(args[0].shape)

    for name, module in network.named_modules():
        module.register_forward_hook(hook(name))
    network(x)
    before = {name: sorted(shapes) for name, shapes in calls.items()}
    calls.clear()
    nl.accelerate(network, verbose=False)
    network(x)
    assert {name: sorted(shapes) for name, shapes in calls.items()} == before


def test_replaced_children_are_called(network, x):
    """LoRA, quantization and pruning put other modules in the places of projections."""

    class Doubled(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.conv(x)

    nl.accelerate(network.eval(), verbose=False)
    network.attn.q = Doubled(network.attn.q)
    nn.utils.parametrizations.weight_norm(network.attn.v)
    fast = network(x)
    nl.restore(network)
    torch.testing.assert_close(fast, network(x), **CLOSE)


def test_checkpointing_recomputes_the_operation(network, x):
    before = step(copy.deepcopy(network), x)
    nl.accelerate(network, verbose=False)
    network.zero_grad()
    y = checkpoint(network.attn, network.first(x), use_reentrant=False)
    network.non_local(y).square().mean().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, before[name], **CLOSE, msg=name)


@pytest.mark.slow
def test_compile_captures_the_whole_network(network, x):
    nl.accelerate(network.eval(), verbose=False)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x), **CLOSE)


def test_export_records_the_operation(network, x):
    nl.accelerate(network.eval(), verbose=False)
    program = torch.export.export(network, (x,))
    torch.testing.assert_close(program.module()(x), network(x), **CLOSE)


def test_symbolic_tracing_records_the_own_code(network, x):
    block, y = network.attn, torch.randn(1, 32, 4, 4, dtype=torch.double)
    expected = block(y)
    nl.accelerate(network, verbose=False)
    torch.testing.assert_close(torch.fx.symbolic_trace(block)(y), expected, **CLOSE)


def test_autocast_gives_the_dtype_of_the_original(network, x):
    before, x = copy.deepcopy(network.float()), x.float()
    nl.accelerate(network, verbose=False)
    exact = before(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, original = network(x), before(x)
    assert y.dtype is original.dtype
    # both round to bfloat16, in other places: ours is as near to float32 as the original is
    error, usual = ((z.float() - exact).square().mean().sqrt() for z in (y, original))
    assert 0 < error < 1.5 * usual


def test_memory_format_is_that_of_the_original(network, x):
    before = copy.deepcopy(network).to(memory_format=torch.channels_last)
    nl.accelerate(network.to(memory_format=torch.channels_last), verbose=False)
    x = x.to(memory_format=torch.channels_last)
    assert network.attn(network.first(x)).stride() == before.attn(before.first(x)).stride()


def test_small_maps_and_other_arguments_run_the_own_code(network, x):
    nl.accelerate(network.eval(), verbose=False)
    block, y = network.non_local, network.first(x)
    z, weights = block(y, return_nl_map=True)
    assert weights.shape == (2, 576, 144)
    torch.testing.assert_close(z, block(y), **CLOSE)
    nl.restore(network)
    small = y[:, :, :8, :8]
    expected = block(small)
    nl.accelerate(network, verbose=False)
    assert torch.equal(block(small), expected)


def test_data_parallel_replicas_compute_by_the_operation(network):
    nl.accelerate(network, verbose=False)
    replica = network.attn._replicate_for_data_parallel()
    assert type(replica) is type(network.attn)


def test_a_network_that_is_a_block(x):
    block = wild.AttnBlock(32)
    found = nl.accelerate(block, verbose=False)
    assert found[0].path == ""
    assert "(the network)" in str(found)
    assert nl.restore(block) == ("",)


def test_on_the_meta_device():
    with torch.device("meta"):
        block = wild.AttnBlock(32)
    assert nl.accelerate(block, verbose=False).accelerated
    assert block(torch.empty(1, 32, 64, 64, device="meta")).shape == (1, 32, 64, 64)


def test_only_networks_are_accepted():
    with pytest.raises(TypeError, match=r"network must be a torch.nn.Module; got Tensor"):
        nl.accelerate(torch.ones(1))  # ty: ignore
