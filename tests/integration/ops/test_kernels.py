"""The Triton kernels against float64: in the interpreter, and compiled for a GPU that is not here.

triton reads TRITON_INTERPRET once, when it is imported, so each of the two is a process of its own:
`TRITON_INTERPRET=1 python tests/integration/ops/test_kernels.py interpret`.
"""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys

import pytest
import torch

SKIP = 77
HALVES = (torch.bfloat16, torch.float16)
NAMES = ("y", "lse", "p", "ds", "dtheta", "dphi", "dg")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    "way", ["interpret", pytest.param("compile_for_hopper", marks=pytest.mark.slow)]
)
def test_kernels(way, tmp_path):
    own = {
        "TRITON_INTERPRET": str(int(way == "interpret")),
        "TRITON_CACHE_DIR": str(tmp_path),  # empty, so that ptxas runs and can tell
        "TRITON_DUMP_PTXAS_LOG": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", __file__, way]
    run = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    if run.returncode == SKIP:
        pytest.skip(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


def interpret():
    from triton.runtime.errors import InterpreterError

    mend_the_interpreter()
    try:
        kernels(*inputs(1, 1, 1, 1, 1), scale=1.0)
    except InterpreterError as error:
        if "0-dimensional" not in str(error):
            raise
        print("the interpreter of triton 3.6 needs numpy < 2.4")
        sys.exit(SKIP)
    for check in (
        check_every_dtype,
        check_padding,
        check_large_scores,
        check_blocks,
        check_copies,
        check_refusals,
        check_heads_and_frames,
    ):
        print(check.__name__)
        check()


def formula(theta, phi, g, grad_y, scale, mask=None) -> dict[str, torch.Tensor]:
    """The operation as it is written, at the precision of its input; gradients by autograd."""
    theta, phi, g = (x.detach().requires_grad_() for x in (theta, phi, g))
    products = theta @ phi.mT
    s = products * scale
    real = torch.ones_like(s, dtype=torch.bool) if mask is None else mask[:, None].expand(s.shape)
    s = s.masked_fill(~real, torch.finfo(s.dtype).min)
    p = s.softmax(2).masked_fill(~real, 0)
    lse = s.logsumexp(2).masked_fill(~real.any(2), -torch.inf)
    y = p @ g
    ds, dtheta, dphi, dg = torch.autograd.grad(y, (products, theta, phi, g), grad_y)
    results = (y, lse, p, ds, dtheta, dphi, dg)
    return {name: x.detach() for name, x in zip(NAMES, results, strict=True)}


def magnitudes(theta, phi, g, grad_y, scale, true) -> dict[str, torch.Tensor]:
    """What the rounding errors of each result are relative to: the sums without cancellation."""
    theta, phi, g, grad_y = (x.double().abs() for x in (theta, phi, g, grad_y))
    p = true["p"]
    ds = abs(scale) * p * 2 * (grad_y @ g.mT)
    sums = {"y": p @ g, "p": p, "ds": ds, "dtheta": ds @ phi, "dphi": ds.mT @ theta}
    return {**sums, "lse": torch.ones(1), "dg": p.mT @ grad_y}


def kernels(theta, phi, g, grad_y, scale, mask=None, block=2048) -> dict[str, torch.Tensor]:
    from nonlocalnet.ops.kernels import softmax

    y, lse = softmax.forward(theta, phi, g, scale, mask)
    delta = (grad_y.float() * y.float()).sum(2)
    p, ds = softmax.probabilities_and_gradients(theta, phi, g, grad_y, lse, delta, scale, mask)
    grads = softmax.backward(theta, phi, g, y, lse, grad_y, scale, mask, block)
    return dict(zip(NAMES, (y, lse, p, ds, *grads), strict=True))


def inputs(b, n, m, d, c, dtype=torch.float32, turned=False, seed=0):
    """theta, phi, g, grad_y; turned ones are views of (B, channels, positions)."""
    rng = torch.Generator().manual_seed(seed)
    sizes = ((n, d), (m, d), (m, c), (n, c))
    if turned:
        return [torch.randn(b, k, rows, generator=rng).to(dtype).mT for rows, k in sizes]
    return [torch.randn(b, rows, k, generator=rng).to(dtype) for rows, k in sizes]


def compare(operands, scale, mask=None, block=2048):
    """Ask for at most twice the error of the formula at the same precision.

    To that we add one rounding of the result and, where the scores s are large, what exp makes of
    scores rounded in float32, once in forward and once in backward: eps · |s| each.
    """
    got = kernels(*operands, scale, mask, block)
    if mask is not None:
        operands = [x.clone() for x in operands]
        for x in operands[1:3]:
            x[~mask] = 0
    true = formula(*(x.double() for x in operands), scale, mask)
    plain = formula(*operands, scale, mask)
    plain["lse"] = formula(*(x.float() for x in operands), scale, mask)["lse"]
    scores = (operands[0].double() @ operands[1].double().mT * scale).abs().max().clamp(min=1)
    sizes = magnitudes(*operands, scale, true)
    single = torch.finfo(torch.float32).eps
    for name, x in got.items():
        assert x.shape == true[name].shape, name
        assert x.dtype == (torch.float32 if name == "lse" else operands[0].dtype), name
        ours, theirs = (error(a[name], true[name]) for a in (got, plain))
        unit = torch.finfo(x.dtype).eps + 2 * single * scores
        bound = 2 * theirs + unit * sizes[name].abs().max()
        print(f"{name:7} {ours:.1e} formula {theirs:.1e} bound {bound:.1e}")
        assert ours <= bound, name
    return got


def error(x, true) -> torch.Tensor:
    return torch.where(x == true, 0, (x.double() - true).abs()).max()


def check_every_dtype():
    sizes = [  # B, N, M, d, c
        (2, 131, 150, 64, 64),
        (1, 1, 70, 24, 7),
        (2, 3, 1, 5, 3),
        (2, 70, 72, 96, 300),  # c over 256: two programs share the queries
        (1, 130, 33, 512, 48),
        (1, 40, 140, 600, 16),  # d over 512: summed in steps
    ]
    for i, size in enumerate(sizes):
        for j, dtype in enumerate((torch.float32, HALVES[i % 2])):
            turned = (i + j) % 2 == 0
            print(dtype, size, turned)
            compare(inputs(*size, dtype, turned), scale=size[3] ** -0.5)


def check_padding():
    mask = torch.rand(3, 150, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0, :70] = False  # the first tiles have no real key
    mask[1] = False
    for dtype in (torch.float32, *HALVES):
        operands = inputs(3, 70, 150, 48, 40, dtype, turned=dtype == torch.float32)
        for x in operands[1:3]:
            x[~mask] = torch.nan
        got = compare(operands, scale=-0.3, mask=mask)
        assert not got["y"][1].any()
        assert not got["dtheta"][1].any()
        for name in ("dphi", "dg"):
            assert not got[name][~mask].any()


def check_large_scores():
    theta, phi, g, grad_y = inputs(1, 60, 100, 64, 32)
    scores = theta @ phi.mT
    assert 0.9 < scores.std() / 8 < 1.1
    compare((theta, phi, g, grad_y), scale=16)  # std 128, a peak of about 500
    compare((theta + 50, phi + 50, g, grad_y), scale=1)  # all scores near 160,000


def check_blocks():
    operands = inputs(2, 140, 33, 32, 24)
    whole, again, parts = (compare(operands, 0.2, block=block) for block in (140, 140, 64))
    for name in ("dtheta", "dphi", "dg"):
        assert torch.equal(whole[name], again[name]), "the same input gives the same bits"
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-5)
    alone = compare([x[1:] for x in operands], 0.2)
    assert torch.equal(alone["y"][0], whole["y"][1]), "samples do not mix"


def check_copies():
    from nonlocalnet.ops.kernels.softmax import _readable

    read = [
        torch.randn(2, 5, 8),
        torch.randn(2, 8, 16).mT,
        torch.randn(2, 64, 64)[:, 16:32, 4:20],
        torch.randn(2, 5, 24, dtype=torch.bfloat16)[:, :, :8],
    ]
    for x in read:
        assert _readable(x) is x, (x.shape, x.stride())
    copied = [
        torch.randn(2, 5, 7),
        torch.randn(2, 8, 5).mT,
        torch.randn(2, 5, 16)[:, :, 1:9],
        torch.randn(2, 5, 16)[:, :, ::2],
        torch.randn(2, 5, 12, dtype=torch.float16),
        torch.randn(2, 1, 1).expand(2, 5, 8),
        torch.randn(2, 1, 8).expand(2, 5, 8),
    ]
    for x in copied:
        copy = _readable(x)
        assert copy is not x, (x.shape, x.stride())
        assert torch.equal(copy, x)
        assert _readable(copy) is copy


def check_refusals():
    from nonlocalnet.ops.kernels import softmax

    theta, phi, g, _ = inputs(1, 4, 4, 8, 8)
    for wrong in ((theta.double(), phi.double(), g.double()), (theta, phi, g.half())):
        with pytest.raises(ValueError, match="share one dtype"):
            softmax.forward(*wrong)


def check_heads_and_frames():
    import nonlocalnet as nl

    theta, phi, g, grad_y = inputs(2, 12, 6, 16, 16)
    mask = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) < 0.7
    options = {"scale": 0.3, "mask": mask, "heads": 2, "causal_frames": 3}
    found = []
    for implementation, kind in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [x.to(kind).detach().requires_grad_() for x in (theta, phi, g)]
        y = nl.non_local(*leaves, **options, implementation=implementation)
        found.append((y, *torch.autograd.grad(y, leaves, grad_y.to(kind))))
    for actual, exact in zip(*found, strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


def compile_for_hopper():
    """Call the wrappers as on an H100, all but the launch: nothing spills, its memory suffices."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from nonlocalnet.ops.kernels import softmax

    class Hopper:
        get_current_device = get_current_stream = staticmethod(lambda *_: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))

    def launch(kernel, grid):
        return lambda *args, **options: made.append(kernel.warmup(*args, grid=grid, **options))

    made = []
    driver.set_active(Hopper())
    JITFunction.__getitem__ = launch
    bf16, single = torch.bfloat16, torch.float32
    mask, lse = torch.ones(1, 64, dtype=torch.bool), torch.zeros(1, 64)
    kernels = [
        (softmax.forward, bf16, 256, 256),
        (softmax.forward, bf16, 512, 512),
        (softmax.forward, bf16, 1024, 512),
        (softmax.forward, single, 512, 512),
        (softmax.probabilities_and_gradients, bf16, 512, 512),
        (softmax.probabilities_and_gradients, single, 512, 512),
    ]
    for call, dtype, d, c in kernels:
        theta, phi, g, grad_y = inputs(1, 64, 64, d, c, dtype, turned=True)
        rest = () if call is softmax.forward else (grad_y, lse, lse)
        with contextlib.redirect_stdout(io.StringIO()) as log:
            call(theta, phi, g, *rest, 1.0, mask)
        said = re.search(r"(\d+) bytes spill stores[\s\S]*Used (\d+) registers", log.getvalue())
        if said is None:
            print("this triton does not hand on what ptxas says")
            sys.exit(SKIP)
        shared, ptx = made[-1].metadata.shared, made[-1].asm["ptx"]
        print(
            f"{call.__name__} {dtype} {d} {c}: {shared} B, {said[2]} registers, {said[1]} spilled"
        )
        assert int(said[1]) == 0
        assert shared <= 232_448
        assert "cp.async.bulk.tensor" in ptx
        assert "tf32" not in ptx
        assert ("wgmma" in ptx) == (dtype != single)


def mend_the_interpreter():
    """Give it a GPU's bfloat16: it multiplies the bits as integers and rounds toward zero."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def float_dot(self, a, b, *rest):
        wide = (
            self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)
        )
        return dot(self, *wide, *rest)

    def nearest_cast(self, x, dtype):
        if (x.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, x, dtype)
        bits = torch.from_numpy(x.data.copy()).bfloat16().view(torch.uint16)
        return TensorHandle(bits.numpy(), tl.bfloat16)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = float_dot, nearest_cast


if __name__ == "__main__":
    globals()[sys.argv[1]]()
