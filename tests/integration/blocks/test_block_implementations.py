"""The block gives the same with every implementation, memory format, compiler and precision."""

import copy
import itertools
from typing import get_args

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nonlocalnet as nl
from nonlocalnet.ops import Pairwise
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

FORMS = get_args(Pairwise)
FORMATS = [torch.contiguous_format, torch.channels_last_3d]
# What compilers make of each form: test_compilers.py. Here one stands for all.
COMPILED = [
    form if form == "embedded_gaussian" else pytest.param(form, marks=pytest.mark.slow)
    for form in FORMS
]
CASES = [(f, p) for f in FORMS for p in IMPLEMENTATIONS_OF[f] if p not in ("auto", "triton")]


def awake(pairwise, channels=6, dtype=torch.float64, **options) -> nl.NonLocalBlock:
    """A block that is not the identity, in training mode."""
    torch.manual_seed(0)
    block = nl.NonLocalBlock(channels, pairwise=pairwise, **options).to(dtype)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return block


def video(*size, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(2, 6, *size, dtype=dtype)


class Operators(TorchDispatchMode):
    """Names of torch's operators that run within, which no module can notice."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def close(actual, expected, atol=1e-11):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize(("pairwise", "implementation"), CASES)
def test_every_implementation_has_the_same_values_gradients_and_parameters(
    pairwise, implementation, position, memory_format
):
    options = {"subsample": (1, 2, 2), "subsample_position": position}
    judge = awake(pairwise, **options, implementation="reference")
    block = awake(pairwise, **options, implementation=implementation)
    assert block.state_dict().keys() == judge.state_dict().keys()
    block.load_state_dict(judge.state_dict())
    for train in (True, False):
        results = []
        for each in (judge, block):
            each.train(train).zero_grad()
            x = video(4, 6, 7).contiguous(memory_format=memory_format).requires_grad_()
            z = each(x)
            z.square().sum().backward()
            results.append((z, x.grad, *(p.grad for p in each.parameters())))
        for actual, expected in zip(*results, strict=True):
            close(actual, expected, atol=1e-9)
    assert block.explain(x).implementation == implementation


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("pairwise", FORMS)
def test_a_constant_norm_is_folded_without_changing_what_is_computed(pairwise, norm):
    block = awake(pairwise, norm=norm).eval()
    for name, value in block.norm.named_buffers():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 2.0) if "var" in name else value.normal_()
    x = video(3, 4, 5)
    with Operators() as used:
        folded = block(x)
    assert not {name for name in used.names if "norm" in name or "conv" in name}
    norm_alone, block.norm = block.norm, None
    close(folded, x + norm_alone(block(x) - x))


def test_batch_statistics_are_taken_in_training():
    block = awake("dot_product")
    before = block.norm.running_mean.clone()
    block(video(3, 4, 5))
    assert not torch.equal(block.norm.running_mean, before)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("pairwise", FORMS)
def test_the_memory_format_of_the_input_is_that_of_the_output(pairwise, train, memory_format):
    block = awake(pairwise, subsample=(1, 2, 2)).train(train)
    z = block(video(4, 6, 8).contiguous(memory_format=memory_format))
    assert z.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("pairwise", FORMS)
def test_autocast_costs_half_precision_of_the_addend_alone(pairwise):
    block = awake(pairwise, dtype=torch.float32, norm=None)
    x = video(4, 6, 7, dtype=torch.float32)
    exact = block.double()(x.double())
    block.float()
    with torch.autocast("cpu", torch.bfloat16):
        z = block(x)
        assert torch.is_autocast_enabled("cpu")
        assert block.g(x).dtype == torch.bfloat16
    assert z.dtype == torch.float32
    addend = (exact - x.double()).abs().max()
    # theta, phi, g and the sum are rounded to 8 bits: some units of 2^-8, scores of order 10
    assert 0 < (z.double() - exact).abs().max() < 16 * 2**-8 * addend


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pairwise", FORMS)
def test_a_block_in_half_precision(pairwise, dtype):
    block = awake(pairwise, dtype=torch.float32, norm=None, inner_channels=4)
    x = video(3, 4, 5, dtype=torch.float32)
    rounded = copy.deepcopy(block).to(dtype)
    z = rounded(x.to(dtype))
    assert z.dtype == dtype
    exact = rounded.double()(x.to(dtype).double())
    assert (z.double() - exact).abs().max() < 64 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("pairwise", COMPILED)
def test_compiles_as_one_graph_with_gradients(pairwise):
    block = awake(pairwise, subsample=(1, 2, 2))
    x = video(4, 6, 7)
    block(x).square().sum().backward()
    expected = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    torch.compiler.reset()
    torch.compile(block, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    for parameter, grad in zip(block.parameters(), expected, strict=True):
        close(parameter.grad, grad, atol=1e-9)


@pytest.mark.parametrize("pairwise", COMPILED)
def test_exports_with_dynamic_sizes(pairwise):
    block = awake(pairwise, subsample=(1, 2, 2), dtype=torch.float32).eval()
    # even sides, since torch 2.11 exports a pooling of no others, and more than one key a side
    t, h, w = (torch.export.Dim(name, min=2, max=2048) for name in "thw")
    sizes = ({0: torch.export.Dim("b", max=64), 2: t, 3: 2 * h, 4: 2 * w},)
    x = video(4, 6, 8, dtype=torch.float32)
    program = torch.export.export(block, (x,), dynamic_shapes=sizes).module()
    large = torch.randn(3, 6, 5, 32, 30)
    torch.testing.assert_close(program(large), block(large), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairwise", COMPILED)
def test_runs_in_onnxruntime_with_equal_numbers(pairwise, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    block = awake(pairwise, subsample=(1, 2, 2), dtype=torch.float32).eval()
    x = video(4, 6, 8, dtype=torch.float32)
    file = tmp_path / "block.onnx"
    torch.onnx.export(block, (x,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    z = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(z, block(x), rtol=1e-4, atol=1e-4)


class Strided(torch.nn.Module):
    """A 16th of the image, a block of pooled keys, the mean."""

    def __init__(self, block):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 6, 16, stride=16)
        self.block = block

    def forward(self, x):
        return self.block(self.stem(x)).mean((2, 3))


SIDES = [(32, 32), (63, 48), (80, 33), (96, 128), (16, 40)]  # one key and more; 16: half a cell


IN_THE_GATE = {("before", 32, "embedded_gaussian"), ("after", 32, "concatenation")}
IN_THE_GATE |= {("after", 80, "embedded_gaussian")}


@pytest.mark.parametrize(
    ("position", "example", "pairwise"),
    [
        pytest.param(*case, marks=() if case in IN_THE_GATE else pytest.mark.slow)
        for case in itertools.product(("before", "after"), (32, 48, 80), FORMS)
    ],
)
def test_an_example_may_pool_to_one_key(pairwise, position, example):
    options = {"dims": 2, "subsample": 2, "subsample_position": position, "dtype": torch.float32}
    network = Strided(awake(pairwise, **options)).eval()
    sizes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    x = torch.randn(1, 3, example, example)
    # torch 2.11 guards the parity of every pooled size, whatever the network
    guards = {} if torch.__version__ >= "2.15" else {"check_guards": False}
    program = torch.export.export(network, (x,), dynamic_shapes=sizes).module(**guards)
    one_key = example < 16 * 4
    for h, w in SIDES if one_key else [(80, 70), (96, 128)]:
        if min(h, w) >= 32:  # a map of one place is a constant to torch, whatever the network
            x = torch.randn(1, 3, h, w)
            torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_onnx_of_an_example_that_pools_to_one_key(pairwise, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    options = {"dims": 2, "subsample": 2, "dtype": torch.float32}
    network, file = Strided(awake(pairwise, **options)).eval(), tmp_path / "network.onnx"
    sizes = ({2: torch.export.Dim("h", min=32), 3: torch.export.Dim("w", min=32)},)
    x = torch.randn(1, 3, 32, 32)
    torch.onnx.export(network, (x,), file, dynamo=True, verbose=False, dynamic_shapes=sizes)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for h, w in SIDES:
        x = torch.randn(1, 3, h, w)
        z = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        torch.testing.assert_close(z, network(x), rtol=1e-4, atol=1e-4)


def test_explain_names_implementation_and_reason():
    block = nl.NonLocalBlock(64, pairwise="dot_product", subsample=(1, 2, 2))
    plan = block.explain(torch.randn(1, 64, 4, 28, 28))
    assert plan.implementation == "linear"
    assert "times fewer multiply-adds" in str(plan)


def test_an_implementation_of_another_form_is_refused_when_the_block_is_made():
    with pytest.raises(ValueError, match=r"implementation must be .*'linear'.* got 'sorted'"):
        nl.NonLocalBlock(8, pairwise="dot_product", implementation="sorted")
    with pytest.raises(ValueError, match=r"memory_budget must be at least 1"):
        nl.NonLocalBlock(8, memory_budget=0)
