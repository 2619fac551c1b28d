"""torch.jit.trace and torch's FLOP counter: programs of torch alone, and nothing uncounted."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nonlocalnet as nl
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

CASES = [(form, name) for form, names in IMPLEMENTATIONS_OF.items() for name in names]
CASES = [(form, name) for form, name in CASES if name != "triton"]


def awake(pairwise, implementation, **options):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(6, 2, pairwise, implementation=implementation, **options).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and warns of every size it sees
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("pairwise", "implementation"), CASES)
def test_a_trace_runs_at_any_size_on_torch_alone(pairwise, implementation, grad):
    # a budget that even this map exceeds, and 500,000 pairs: whatever is taken for large ones
    block = awake(
        pairwise,
        implementation,
        memory_budget=1000,
        subsample=2 if implementation == "auto" else None,
    )
    block.requires_grad_(grad)
    side = 40 if implementation == "auto" else 6
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(block, torch.randn(1, 6, side, side))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    assert "nonlocalnet::" not in str(traced.inlined_graph)
    file.seek(0)
    loaded = torch.jit.load(file)
    for size in ((2, 6, side + 3, side - 1), (3, 6, 4, 50)):
        x = torch.randn(size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(loaded(x), block(x), rtol=1e-4, atol=1e-4)


B, N, M, D, C = 2, 40, 30, 8, 6


def counted(pairwise, implementation, dtype=torch.float32):
    """Operations of forward and of backward, and the operators of ours among them."""
    tensors = [torch.randn(B, rows, width) for rows, width in ((N, D), (M, D), (M, C))]
    theta, phi, g = (t.to(dtype).requires_grad_() for t in tensors)
    w_f = torch.randn(2 * D, requires_grad=True) if pairwise == "concatenation" else None
    with FlopCounterMode(display=False) as counter:
        y = nl.non_local(theta, phi, g, pairwise, w_f=w_f, implementation=implementation)
        forward = counter.get_total_flops()
        y.sum().backward()
    names = {str(name) for name in counter.get_flop_counts()["Global"]}
    return forward, counter.get_total_flops() - forward, names


def test_query_blocks_are_counted_as_the_products_that_they_are():
    forward, backward, names = counted("embedded_gaussian", "chunked")
    reference, _, _ = counted("embedded_gaussian", "reference")
    scores, sums = 2 * B * N * M * D, 2 * B * N * M * C
    assert forward == reference == scores + sums
    # scores again; the gradients of weights, g, phi and theta
    assert backward == scores + sums + sums + scores + scores
    assert names == {"nonlocalnet.softmax_sum", "nonlocalnet.softmax_sum_backward"}


def test_the_sorted_form_is_counted_as_sums_over_queries_and_keys():
    forward, backward, names = counted("concatenation", "sorted")
    # tables S (M additions of c numbers) and T (a product and an addition); a row of each
    assert forward == B * C * (3 * M + 2 * N)
    assert forward < backward < 3 * forward
    assert names == {"nonlocalnet.relu_sum", "nonlocalnet.relu_sum_backward"}


def test_every_operator_of_ours_has_a_formula():
    registry = FlopCounterMode(display=False).flop_registry
    ours = {name for name in torch._C._dispatch_get_all_op_names() if "nonlocalnet::" in name}
    assert ours
    assert [
        name for name in ours if getattr(torch.ops.nonlocalnet, name[13:]) not in registry
    ] == []


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_a_block_is_counted_by_module(pairwise):
    block, x = awake(pairwise, "auto", memory_budget=1), torch.randn(1, 6, 10, 10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(x)
    counts = counter.get_flop_counts()
    for name in ("theta", "phi", "g", "w_z"):
        assert sum(counts[f"NonLocalBlock.{name}"].values()) == 2 * 100 * 6 * 3
    operation = sum(counts["NonLocalBlock"].values()) - 4 * 2 * 100 * 6 * 3
    assert (
        operation
        >= {"embedded_gaussian": 2 * 100 * 100 * 6, "concatenation": 100 * 3 * 5}[pairwise]
    )


def test_formulas_cost_nothing_until_torchs_counter_is_loaded():
    code = (
        "import sys, torch, nonlocalnet.ops\n"
        "print('torch.utils.flop_counter' in sys.modules)\n"
        "print(any(m.startswith(('torch._dynamo', 'torch._inductor')) for m in sys.modules))\n"
        "from torch.utils.flop_counter import flop_registry\n"
        "print(torch.ops.nonlocalnet.relu_sum in flop_registry)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize("network", [nl.NonLocalBlock(4), nl.create_model("c2d_tiny", crop=32)])
def test_scripting_says_what_to_use_instead(network):
    with pytest.raises(TypeError, match=r"cannot be scripted.*use torch\.export\.export"):
        torch.jit.script(torch.nn.Sequential(network))
