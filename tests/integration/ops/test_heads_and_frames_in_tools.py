"""Several heads and the frame-causal extent under torch's tools, in every implementation."""

import io
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nonlocalnet as nl
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

FORMS = ["embedded_gaussian", "dot_product", "concatenation"]  # gaussian: as embedded_gaussian
CASES = [(f, p) for f in FORMS for p in IMPLEMENTATIONS_OF[f] if p not in ("auto", "triton")]
T, HEADS = 3, 2


def inputs(pairwise, b=2, n=4, m=2, d=4, c=4, dtype=torch.float32):
    """For n queries and m keys in each frame."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"theta": (b, T * n, d), "phi": (b, T * m, d), "g": (b, T * m, c)}
    shapes |= {"w_f": (2 * d,)} if pairwise == "concatenation" else {}
    tensors = {key: torch.randn(v, generator=rng, dtype=dtype) for key, v in shapes.items()}
    return tensors | {"mask": torch.rand(b, T * m, generator=rng) < 0.7}


def operation(pairwise, implementation):
    options = {"heads": HEADS, "causal_frames": T, "implementation": implementation}
    return lambda **tensors: nl.non_local(**tensors, pairwise=pairwise, **options)


@pytest.mark.parametrize(("pairwise", "implementation"), CASES)
def test_autocast_changes_no_bit(pairwise, implementation):
    compute, tensors = operation(pairwise, implementation), inputs(pairwise)
    with torch.autocast("cpu", torch.bfloat16):
        inside = compute(**tensors)
    assert torch.equal(inside, compute(**tensors))


@pytest.mark.parametrize(("pairwise", "implementation"), CASES)
def test_meta_tensors_give_shapes(pairwise, implementation):
    tensors = inputs(pairwise, c=6, dtype=torch.bfloat16)
    real = operation(pairwise, implementation)(**tensors)
    meta = operation(pairwise, implementation)(**{k: t.to("meta") for k, t in tensors.items()})
    assert (meta.device.type, meta.shape, meta.dtype) == ("meta", real.shape, real.dtype)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("pairwise", "implementation"), CASES)
def test_gradients_per_sample_are_those_of_a_loop(pairwise, implementation):
    compute = operation(pairwise, implementation)
    tensors = inputs(pairwise, b=3, dtype=torch.float64)
    names = list(tensors)
    floats = tuple(k for k, t in enumerate(tensors.values()) if t.is_floating_point())

    def loss(*sample):
        return compute(**dict(zip(names, sample, strict=True))).square().sum()

    one = torch.func.grad(loss, argnums=floats)
    samples = [t if name == "w_f" else t.unsqueeze(1) for name, t in tensors.items()]
    axes = tuple(None if name == "w_f" else 0 for name in names)
    every = torch.func.vmap(one, in_dims=axes)(*samples)
    for i in range(3):
        alone = one(*(t if k is None else t[i] for t, k in zip(samples, axes, strict=True)))
        for actual, expected in zip(every, alone, strict=True):
            torch.testing.assert_close(actual[i], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("implementation", ["reference", "fused", "chunked"])
def test_a_causal_softmax_is_counted_by_the_pairs_that_are_seen(implementation):
    tensors = inputs("embedded_gaussian", n=8, m=8, d=16, c=16)
    del tensors["mask"]
    with FlopCounterMode(display=False) as counter:
        operation("embedded_gaussian", implementation)(**tensors)
    pairs = 8 * 8 * sum(range(1, T + 1))
    assert counter.get_total_flops() == 2 * 2 * pairs * (16 + 16)


def test_a_causal_dot_product_is_counted_as_linear():
    n, m, d, c = 8, 4, 16, 12
    tensors = inputs("dot_product", n=n, m=m, d=d, c=c)
    del tensors["mask"]
    with FlopCounterMode(display=False) as counter:
        operation("dot_product", "linear")(**tensors)
    assert counter.get_total_flops() == 2 * 2 * T * (n + m) * d * c / HEADS


def test_a_causal_concatenation_takes_part_in_log_t_sums():
    frames, n, m, c = 16, 8, 4, 6
    theta, phi, g = (torch.randn(1, frames * k, w) for k, w in ((n, 2), (m, 2), (m, c)))
    options = {"w_f": torch.randn(4), "implementation": "sorted"}
    counts = []
    for causal_frames in (None, frames):
        with FlopCounterMode(display=False) as counter:
            nl.non_local(theta, phi, g, "concatenation", causal_frames=causal_frames, **options)
        counts.append(counter.get_total_flops())
    # its own frame, and at each of 4 levels the half of the queries and of the keys
    assert counts[1] == counts[0] * (1 + math.log2(frames) / 2)


def awake(pairwise, **options):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(
        6, 3, pairwise, heads=3, inner_channels=6, value_channels=9, subsample=(1, 2, 2),
        extent="causal", norm=None, pre_norm="rms", gate=True, **options,
    )  # fmt: skip
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def video(*size):
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "pairwise", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])]
)
@pytest.mark.slow
def test_a_causal_block_compiles_as_one_graph_with_gradients(pairwise):
    block, x = awake(pairwise), video(2, 6, 2, 4, 4)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=False)
    grads = []
    for each in (block, compiled):
        block.zero_grad()
        each(x).square().sum().backward()
        grads.append([p.grad for p in block.parameters()])
    for actual, expected in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pairwise", FORMS)
def test_a_compiled_causal_block_takes_any_number_of_frames(pairwise):
    block = awake(pairwise)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="eager", dynamic=True)
    for size in ((2, 6, 2, 4, 4), (1, 6, 3, 6, 4)):
        x = video(*size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "pairwise", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])]
)
def test_an_exported_causal_block_takes_any_number_of_frames(pairwise):
    block = awake(pairwise).eval()
    t, h, w = (torch.export.Dim(name, min=2, max=2048) for name in "thw")
    sizes = ({0: torch.export.Dim("b", max=64), 2: t, 3: 2 * h, 4: 2 * w},)
    exported = torch.export.export(block, (video(2, 6, 4, 6, 8),), dynamic_shapes=sizes)
    assert "nonlocalnet" not in str(exported.graph)
    x = video(3, 6, 7, 10, 12)
    torch.testing.assert_close(exported.module()(x), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnxruntime_gives_equal_numbers():
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    block, x, file = awake("concatenation").eval(), video(1, 6, 3, 4, 6), io.BytesIO()
    torch.onnx.export(block, (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    z = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(z, block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and warns of every size it sees
def test_a_traced_causal_block_takes_any_number_of_frames():
    block = awake("dot_product").eval()
    traced = torch.jit.trace(block, video(1, 6, 3, 4, 4))
    x = video(2, 6, 5, 6, 8)
    torch.testing.assert_close(traced(x), block(x), rtol=1e-4, atol=1e-4)
