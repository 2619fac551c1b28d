"""Every implementation under torch's tools: compile, export, func, autocast, checkpoint, meta."""

import io
import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils.checkpoint import checkpoint

import nonlocalnet as nl
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

# gaussian is the same as embedded_gaussian (test_paths.py), and triton has test_kernels.py
FORMS = ["embedded_gaussian", "dot_product", "concatenation"]
IMPLEMENTATIONS = [
    (form, name)
    for form in FORMS
    for name in IMPLEMENTATIONS_OF[form]
    if name not in ("auto", "triton")
]


def inputs(pairwise, b=2, n=7, m=5, d=4, c=4, masked=True, dtype=torch.float32):
    """The arguments of the operation, in the memory order of channels-first features."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"theta": (b, d, n), "phi": (b, d, m), "g": (b, c, m)}
    drawn = {k: torch.randn(v, generator=rng, dtype=torch.float64) for k, v in shapes.items()}
    tensors = {name: t.to(dtype).mT for name, t in drawn.items()}
    if pairwise == "concatenation":
        tensors["w_f"] = torch.randn(2 * d, generator=rng, dtype=torch.float64).to(dtype)
    if masked:
        tensors["mask"] = torch.rand(b, m, generator=rng) < 0.7
    return tensors


class Operation(nn.Module):
    """non_local with everything fixed but the tensors; blocks of two queries."""

    def __init__(self, pairwise, implementation="auto"):
        super().__init__()
        self.pairwise, self.implementation = pairwise, implementation

    def forward(self, theta, phi, g, w_f=None, mask=None):
        two_rows = 2 * 3 * theta.shape[0] * phi.shape[1] * theta.dtype.itemsize
        return nl.non_local(
            theta,
            phi,
            g,
            self.pairwise,
            w_f=w_f,
            mask=mask,
            implementation=self.implementation,
            memory_budget=None if self.implementation == "auto" else two_rows,
        )


def with_gradients(function, tensors) -> list[Tensor]:
    """y, and the gradient of every tensor of numbers."""
    leaves = {k: t.detach().requires_grad_(t.is_floating_point()) for k, t in tensors.items()}
    y = function(**leaves)
    floats = [t for t in leaves.values() if t.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), floats)]


def close(actual, expected) -> None:
    """The same sums in another order, in float32: some 300 roundings of 2^-24 of numbers near 1."""
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


# the reference: test_operation.py
FAST = [(form, name) for form, name in IMPLEMENTATIONS if name != "reference"]
COMPILED = [*FAST, *((form, "auto") for form in FORMS)]


@pytest.mark.parametrize(("pairwise", "implementation"), FAST)  # auto: below
def test_every_implementation_compiles_as_one_graph_with_its_gradients(pairwise, implementation):
    operation, tensors = Operation(pairwise, implementation), inputs(pairwise)
    compiled = torch.compile(operation, fullgraph=True, backend="aot_eager", dynamic=False)
    close(with_gradients(compiled, tensors), with_gradients(operation, tensors))


@pytest.mark.parametrize(("pairwise", "implementation"), COMPILED)
def test_every_implementation_compiles_for_sizes_that_change(pairwise, implementation):
    operation = Operation(pairwise, implementation)
    compiled = torch.compile(operation, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in ({}, {"b": 3, "n": 30, "m": 11}):
        tensors = inputs(pairwise, **sizes, masked=False)
        close(with_gradients(compiled, tensors), with_gradients(operation, tensors))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")
@pytest.mark.parametrize(
    ("pairwise", "implementation"),
    [
        pytest.param("embedded_gaussian", "chunked", marks=pytest.mark.slow),
        pytest.param("concatenation", "sorted", marks=pytest.mark.slow),
    ],
)
def test_operators_of_our_own_compile_to_code(pairwise, implementation, monkeypatch):
    operation = Operation(pairwise, implementation)
    # a cached program would not notice that an operator has changed
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    compiled = torch.compile(operation, fullgraph=True)
    tensors = inputs(pairwise, c=6)
    close(with_gradients(compiled, tensors), with_gradients(operation, tensors))


def dynamic_shapes(tensors) -> dict[str, dict]:
    batch, n, m = Dim("batch"), Dim("n"), Dim("m")
    keys = {0: batch, 1: m}
    every = {"theta": {0: batch, 1: n}, "phi": keys, "g": keys, "w_f": {}, "mask": keys}
    return {name: every[name] for name in tensors}


@pytest.mark.parametrize(
    ("pairwise", "masked"), [*((form, True) for form in FORMS), ("embedded_gaussian", False)]
)
def test_an_export_runs_at_any_size_on_torch_alone(pairwise, masked):
    operation = Operation(pairwise)
    tensors = inputs(pairwise, masked=masked)
    shapes = dynamic_shapes(tensors)
    program = torch.export.export(operation, (), tensors, dynamic_shapes=shapes)
    large = inputs(pairwise, b=3, n=400, m=700, masked=masked)  # beyond every crossover
    close(program.module()(**large), operation(**large))
    assert "nonlocalnet" not in str(program.graph)


@pytest.mark.filterwarnings("ignore:# The axis name")
@pytest.mark.parametrize(
    "pairwise",
    [
        "embedded_gaussian",
        pytest.param("dot_product", marks=pytest.mark.slow),
        pytest.param("concatenation", marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_same_numbers_at_any_size(pairwise):
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module)
    runtime = pytest.importorskip("onnxruntime")
    operation = Operation(pairwise).eval()
    tensors = inputs(pairwise)
    program = torch.onnx.export(
        operation,
        (),
        kwargs=tensors,
        dynamo=True,
        dynamic_shapes=dynamic_shapes(tensors),
        verbose=False,
    )
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    large = inputs(pairwise, b=3, n=400, m=700)
    (y,) = session.run(None, {name: t.numpy() for name, t in large.items()})
    close(torch.from_numpy(y), operation(**large))


def rows(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_first(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("layout", [rows, channels_first])
def test_operators_of_our_own_are_what_they_tell_compilers(layout):
    operators = torch.ops.nonlocalnet
    rng = torch.Generator().manual_seed(0)
    theta, phi, g, grad, a, b = (
        layout(torch.randn(size, generator=rng))
        for size in [(2, 7, 4), (2, 5, 4), (2, 5, 3), (2, 7, 3), (2, 7), (2, 5)]
    )
    cases = {
        "relu_sum": [(a, b, g)],
        "step_sum": [(a, b, g)],
        "relu_sum_backward": [(grad, a, b, g)],
        "softmax_sum": [],
        "softmax_sum_backward": [],
    }
    for mask in (None, torch.arange(5) < torch.tensor([[3], [5]])):
        y = operators.softmax_sum(theta, phi, g, 0.5, mask, 2)
        cases["softmax_sum"].append((theta, phi, g, 0.5, mask, 2))
        cases["softmax_sum_backward"].append((grad, theta, phi, g, y, 0.5, mask, 2))
    on_a_gpu = {"attention", "attention_backward"}  # test_kernels.py
    ours = {name for name in torch._C._dispatch_get_all_op_names() if "nonlocalnet::" in name}
    assert {name.removeprefix("nonlocalnet::") for name in ours} == cases.keys() | on_a_gpu
    for name, calls in cases.items():
        for arguments in calls:
            torch.library.opcheck(getattr(operators, name).default, arguments)


@pytest.mark.parametrize(("pairwise", "implementation"), IMPLEMENTATIONS)
def test_autocast_changes_no_bit_and_stays_on(pairwise, implementation):
    operation, tensors = Operation(pairwise, implementation), inputs(pairwise)
    expected = operation(**tensors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operation(**tensors), expected)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)  # and memory that nobody wrote is NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("pairwise", "implementation"), IMPLEMENTATIONS)
def test_the_same_input_gives_the_same_bits(pairwise, implementation, masked):
    tensors = inputs(pairwise, n=400, m=700, masked=masked)
    first, second = (with_gradients(Operation(pairwise, implementation), tensors) for _ in range(2))
    assert all(x.isfinite().all() for x in first)
    assert all(map(torch.equal, first, second))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("pairwise", "implementation"), IMPLEMENTATIONS)
def test_gradients_per_sample_are_those_of_a_loop(pairwise, implementation, masked):
    operation = Operation(pairwise, implementation)
    tensors = inputs(pairwise, b=3, masked=masked, dtype=torch.float64)
    names = list(tensors)
    floats = tuple(k for k, t in enumerate(tensors.values()) if t.is_floating_point())

    def loss(*sample):
        return operation(**dict(zip(names, sample, strict=True))).square().sum()

    one = torch.func.grad(loss, argnums=floats)
    samples = {k: t if k == "w_f" else t.unsqueeze(1) for k, t in tensors.items()}
    # samples lie along the last axis: an operator must take them from wherever they are
    last = [t if name == "w_f" else t.movedim(0, -1) for name, t in samples.items()]
    axes = tuple(None if name == "w_f" else -1 for name in names)
    every = torch.func.vmap(one, in_dims=axes)(*last)
    for i in range(3):
        alone = one(*(t if name == "w_f" else t[i] for name, t in samples.items()))
        for actual, expected in zip(every, alone, strict=True):
            torch.testing.assert_close(actual[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("pairwise", "implementation"), IMPLEMENTATIONS)
def test_jacobians_and_their_jacobians_are_autograds(pairwise, implementation):
    operation = Operation(pairwise, implementation)
    tensors = inputs(pairwise, b=1, n=3, m=2, masked=False, dtype=torch.float64)
    every = tuple(range(len(tensors)))
    found = torch.func.jacrev(operation, argnums=every)(*tensors.values())
    expected = torch.autograd.functional.jacobian(operation, tuple(tensors.values()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if implementation == "fused":  # has no second derivatives
        return

    def loss(*leaves):
        return operation(*leaves).pow(3).sum()

    found = torch.func.jacrev(torch.func.jacrev(loss, argnums=every), argnums=every)
    expected = torch.autograd.functional.hessian(loss, tuple(tensors.values()))
    torch.testing.assert_close(found(*tensors.values()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("pairwise", "implementation"), IMPLEMENTATIONS)
def test_meta_tensors_give_the_shapes_of_everything(pairwise, implementation):
    tensors = inputs(pairwise, c=6, dtype=torch.bfloat16)
    real = with_gradients(Operation(pairwise, implementation), tensors)
    meta = {name: t.to("meta") for name, t in tensors.items()}
    shapes = with_gradients(Operation(pairwise, implementation), meta)
    assert {t.device.type for t in shapes} == {"meta"}
    assert [(t.shape, t.dtype) for t in shapes] == [(t.shape, t.dtype) for t in real]


@pytest.mark.parametrize(("pairwise", "implementation"), IMPLEMENTATIONS)
def test_checkpoints_change_no_bit(pairwise, implementation):
    operation, tensors = Operation(pairwise, implementation), inputs(pairwise)

    def again(**leaves):
        return checkpoint(operation, use_reentrant=False, **leaves)

    actual, expected = with_gradients(again, tensors), with_gradients(operation, tensors)
    assert all(map(torch.equal, actual, expected))
