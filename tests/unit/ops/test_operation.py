"""The operation against a loop over i and j, written from the paper's equations 1 to 6."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import nonlocalnet as nl
from nonlocalnet.ops import Pairwise, precision

FORMS = get_args(Pairwise)
SOFTMAX = ("gaussian", "embedded_gaussian")


def loop_affinity(theta, phi, pairwise, scale=None, mask=None, w_f=None) -> np.ndarray:
    """a_ij = f(x_i, x_j) / C(x), one pair at a time, in float64."""
    theta, phi = (np.asarray(t.detach().double()) for t in (theta, phi))
    batch, n, _ = theta.shape
    m = phi.shape[1]
    factor = 1.0 if scale is None else scale
    a = np.zeros((batch, n, m))
    for b in range(batch):
        real = [j for j in range(m) if mask is None or bool(mask[b, j])]
        for i in range(n):
            f = {}
            for j in real:
                if pairwise == "concatenation":
                    both = [*theta[b, i], *phi[b, j]]
                    f[j] = max(0.0, sum(float(w) * v for w, v in zip(w_f, both, strict=True)))
                else:
                    s = sum(p * q for p, q in zip(theta[b, i], phi[b, j], strict=True))
                    f[j] = s if pairwise == "dot_product" else math.exp(s * factor)
            c = sum(f.values()) if pairwise in SOFTMAX else len(real)
            for j in real:
                a[b, i, j] = f[j] / c
    return a


def loop_non_local(theta, phi, g, pairwise, **options) -> np.ndarray:
    """y_i = Σ_j a_ij g(x_j), one pair at a time, in float64."""
    a = loop_affinity(theta, phi, pairwise, **options)
    g = np.asarray(g.detach().double())
    y = np.zeros((*a.shape[:2], g.shape[2]))
    for b, i, j in np.ndindex(a.shape):
        if a[b, i, j] != 0:
            y[b, i] += a[b, i, j] * g[b, j]
    return y


def inputs(pairwise, b=2, n=5, m=3, d=4, c=6, dtype=torch.float64, seed=0):
    """theta, phi, g, options; w_f where the form has one."""
    rng = torch.Generator().manual_seed(seed)
    theta, phi, g = (
        torch.randn(size, generator=rng, dtype=torch.float64).to(dtype)
        for size in ((b, n, d), (b, m, d), (b, m, c))
    )
    w_f = torch.randn(2 * d, generator=rng, dtype=torch.float64).to(dtype)
    return theta, phi, g, ({"w_f": w_f} if pairwise == "concatenation" else {})


def close(actual: Tensor, expected: np.ndarray, atol=1e-12):
    torch.testing.assert_close(actual.double(), torch.as_tensor(expected), rtol=1e-12, atol=atol)


MASK = torch.tensor([[True, False, True], [False, True, True]])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pairwise", FORMS)
def test_equals_the_loop(pairwise, masked):
    theta, phi, g, options = inputs(pairwise)
    mask = MASK if masked else None
    y = nl.non_local(theta, phi, g, pairwise, mask=mask, **options)
    a = nl.affinity(theta, phi, pairwise, mask=mask, **options)
    close(y, loop_non_local(theta, phi, g, pairwise, mask=mask, **options))
    close(a, loop_affinity(theta, phi, pairwise, mask=mask, **options))
    close(y, (a @ g).numpy())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    pairwise=st.sampled_from(FORMS),
    sizes=st.fixed_dictionaries(
        {"b": st.integers(1, 3), **{name: st.integers(1, 6) for name in ("n", "m", "d", "c")}}
    ),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_equals_the_loop_at_any_size_and_mask(pairwise, sizes, seed, data):
    theta, phi, g, options = inputs(pairwise, **sizes, seed=seed)
    bits = data.draw(
        st.lists(st.booleans(), min_size=g[..., 0].numel(), max_size=g[..., 0].numel())
    )
    mask = torch.tensor(bits).view(g.shape[:2])
    y = nl.non_local(theta, phi, g, pairwise, mask=mask, **options)
    close(y, loop_non_local(theta, phi, g, pairwise, mask=mask, **options))
    y = nl.non_local(theta, phi, g, pairwise, **options)
    close(y, loop_non_local(theta, phi, g, pairwise, **options))


def test_default_form_is_embedded_gaussian():
    theta, phi, g, _ = inputs("embedded_gaussian")
    close(nl.non_local(theta, phi, g), loop_non_local(theta, phi, g, "embedded_gaussian"))
    close(nl.affinity(theta, phi), loop_affinity(theta, phi, "embedded_gaussian"))


@pytest.mark.parametrize("scale", [0.25, 2, -1.5, 0.0])
@pytest.mark.parametrize("pairwise", SOFTMAX)
def test_scale_multiplies_the_exponent(pairwise, scale):
    theta, phi, g, _ = inputs(pairwise)
    close(
        nl.non_local(theta, phi, g, pairwise, scale=scale),
        loop_non_local(theta, phi, g, pairwise, scale=scale),
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pairwise", SOFTMAX)
def test_rows_of_softmax_forms_sum_to_one(pairwise, masked):
    theta, phi, *_ = inputs(pairwise, dtype=torch.float32)
    # scores of ±1e5: no row may underflow, nor the padding outweigh it
    a = nl.affinity(1e5 * theta, phi, pairwise, mask=MASK if masked else None)
    torch.testing.assert_close(a.sum(2), torch.ones(2, 5))
    assert (a >= 0).all()


@pytest.mark.parametrize("pairwise", FORMS)
def test_masking_keys_equals_deleting_them(pairwise):
    theta, phi, g, options = inputs(pairwise, m=5)
    keep = torch.tensor([4, 0, 2]).sort().values
    mask = torch.zeros(2, 5, dtype=torch.bool).index_fill(1, keep, True)
    masked = nl.non_local(theta, phi, g, pairwise, mask=mask, **options)
    deleted = nl.non_local(theta, phi[:, keep], g[:, keep], pairwise, **options)
    torch.testing.assert_close(masked, deleted, rtol=1e-12, atol=1e-12)
    a = nl.affinity(theta, phi, pairwise, mask=mask, **options)
    assert (a[:, :, ~mask[0]] == 0).all()


@pytest.mark.parametrize("pairwise", FORMS)
def test_sample_without_real_keys_gives_zeros_and_finite_gradients(pairwise):
    theta, phi, g, options = inputs(pairwise)
    leaves = [t.requires_grad_() for t in (theta, phi, g, *options.values())]
    mask = torch.tensor([[False] * 3, [True] * 3])
    y = nl.non_local(theta, phi, g, pairwise, mask=mask, **options)
    assert (y[0] == 0).all()
    assert (nl.affinity(theta, phi, pairwise, mask=mask, **options)[0] == 0).all()
    close(y[1:], loop_non_local(theta[1:], phi[1:], g[1:], pairwise, **detached(options)))
    y.sum().backward()
    assert all(t.grad.isfinite().all() for t in leaves)


@pytest.mark.parametrize("pairwise", FORMS)
def test_no_keys_at_all_give_zeros(pairwise):
    theta, phi, g, options = inputs(pairwise)
    y = nl.non_local(theta, phi[:, :0], g[:, :0], pairwise, **options)
    assert torch.equal(y, torch.zeros(2, 5, 6, dtype=torch.float64))


def detached(options):
    return {name: t.detach() for name, t in options.items()}


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("pairwise", FORMS)
def test_what_stands_in_the_padding_reaches_neither_output_nor_gradient(pairwise, poison):
    theta, phi, g, options = inputs(pairwise)

    def run(phi, g):
        leaves = [t.clone().requires_grad_() for t in (theta, phi, g, *options.values())]
        extra = dict(zip(options, leaves[3:], strict=True))
        y = nl.non_local(*leaves[:3], pairwise, mask=MASK, **extra)
        a = nl.affinity(*leaves[:2], pairwise, mask=MASK, **extra)
        (y.square().sum() + a.square().sum()).backward()
        return y, a, *(t.grad for t in leaves)

    padding = ~MASK.unsqueeze(2)
    poisoned = run(phi.masked_fill(padding, poison), g.masked_fill(padding, poison))
    clean = run(phi, g)
    for actual, expected in zip(poisoned, clean, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert (poisoned[3][~MASK] == 0).all()  # the padding's own gradient
    assert (poisoned[4][~MASK] == 0).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pairwise", FORMS)
def test_gradients(pairwise, masked):
    theta, phi, g, options = inputs(pairwise, n=3, d=2, c=2)
    names = list(options)
    mask = MASK if masked else None
    scale = 0.7 if pairwise in SOFTMAX else None

    def f(theta, phi, g, *rest):
        extra = dict(zip(names, rest, strict=True))
        return nl.non_local(theta, phi, g, pairwise, mask=mask, scale=scale, **extra)

    leaves = [t.requires_grad_() for t in (theta, phi, g, *options.values())]
    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves)


@pytest.mark.parametrize("units", [False, True], ids=["no bfloat16 units", "bfloat16 units"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pairwise", FORMS)
def test_half_precision_costs_few_roundings(pairwise, dtype, units, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: units)
    theta, phi, g, options = inputs(pairwise, n=7, m=9, d=16, dtype=dtype)
    exact = loop_non_local(theta, phi, g, pairwise, **options)
    a = loop_affinity(theta, phi, pairwise, **options)
    y = nl.non_local(theta, phi, g, pairwise, **options)
    assert y.dtype == dtype
    # half a unit in the last place of y, plus sums in float32 (2^-24 a step, some 40 steps)
    half = torch.finfo(dtype).eps / 2
    size_of_g = np.abs(np.asarray(g.double()))
    sums = np.abs(a) @ size_of_g
    allowed = half * np.abs(exact) + 40 * 2**-24 * (sums + 1)
    if units and dtype == torch.bfloat16 and pairwise != "concatenation":
        # products of bfloat16 are rounded: the scores (for a softmax that moves a_ij twice, above
        # and below the line) and a_ij; or phi^T g
        scores = np.abs(np.asarray(theta.double())) @ np.abs(np.asarray(phi.double())).swapaxes(
            1, 2
        )
        if pairwise in SOFTMAX:
            allowed += half * (2 * scores.max(2, keepdims=True) + 2) * sums
        else:
            allowed += 3 * half * (scores / phi.shape[1] @ size_of_g)
    assert (np.abs(np.asarray(y.double()) - exact) <= allowed).all()
    assert nl.affinity(theta, phi, pairwise, **options).dtype == torch.float32


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pairwise", ["dot_product", *SOFTMAX])
def test_products_beyond_float16_do_not_overflow(pairwise, masked):
    rng = torch.Generator().manual_seed(0)
    # whole numbers, so that the products are exact in float32 and the loop is a fair judge
    theta, phi = (torch.randint(50, 150, (2, n, 16), generator=rng).half() for n in (5, 3))
    g = torch.randn(2, 3, 6, generator=rng).mul(0.01).half()
    assert (theta.double() @ phi.double().mT).min() > torch.finfo(torch.float16).max
    mask = MASK if masked else None
    scale = 2.0**-12 if pairwise in SOFTMAX else None
    y = nl.non_local(theta, phi, g, pairwise, scale=scale, mask=mask)
    exact = loop_non_local(theta, phi, g, pairwise, scale=scale, mask=mask)
    assert np.abs(exact).max() < torch.finfo(torch.float16).max
    np.testing.assert_allclose(np.asarray(y.double()), exact, rtol=2**-10, atol=2e-3)
    unscaled = nl.non_local(theta, phi, g, pairwise, mask=mask)
    assert unscaled.isfinite().all()


@pytest.mark.parametrize("pairwise", FORMS)
def test_autocast_does_not_apply_inside(pairwise):
    theta, phi, g, options = inputs(pairwise, n=17, m=13, d=8, dtype=torch.float32)
    plain = nl.non_local(theta, phi, g, pairwise, **options)
    rows = nl.affinity(theta, phi, pairwise, **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert (theta @ phi.mT).dtype == torch.bfloat16  # autocast is on
        assert torch.equal(nl.non_local(theta, phi, g, pairwise, **options), plain)
        assert torch.equal(nl.affinity(theta, phi, pairwise, **options), rows)


@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_queries_pick_rows(pairwise, dtype):
    theta, phi, _, options = inputs(pairwise)
    every = loop_affinity(theta, phi, pairwise, **options)
    shared = torch.tensor([4, 0, 4], dtype=dtype)
    close(nl.affinity(theta, phi, pairwise, queries=shared, **options), every[:, [4, 0, 4]])
    own = torch.tensor([[1, 2], [3, 0]], dtype=dtype)
    expected = np.stack([every[0, [1, 2]], every[1, [3, 0]]])
    close(nl.affinity(theta, phi, pairwise, queries=own, **options), expected)


def test_no_queries_give_no_rows():
    theta, phi, *_ = inputs("dot_product")
    empty = torch.zeros(0, dtype=torch.int64)
    assert nl.affinity(theta, phi, "dot_product", queries=empty).shape == (2, 0, 3)


@pytest.mark.parametrize("sizes", [{"m": 1}, {"n": 1}, {"b": 1}, {"d": 1, "c": 1}])
@pytest.mark.parametrize("pairwise", FORMS)
def test_smallest_sizes(pairwise, sizes):
    theta, phi, g, options = inputs(pairwise, **sizes)
    expected = loop_non_local(theta, phi, g, pairwise, **options)
    close(nl.non_local(theta, phi, g, pairwise, **options), expected)


@pytest.mark.parametrize("pairwise", FORMS)
def test_non_contiguous_inputs(pairwise):
    theta, phi, g, options = inputs(pairwise)
    views = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (theta, phi, g)]
    assert not any(t.is_contiguous() for t in views)
    expected = loop_non_local(theta, phi, g, pairwise, **options)
    close(nl.non_local(*views, pairwise, **options), expected)


@pytest.mark.parametrize("pairwise", FORMS)
def test_order_of_keys_does_not_matter_and_queries_keep_theirs(pairwise):
    theta, phi, g, options = inputs(pairwise, m=6)
    y = nl.non_local(theta, phi, g, pairwise, **options)
    keys, queries = torch.tensor([5, 2, 0, 3, 1, 4]), torch.tensor([3, 1, 4, 0, 2])
    shuffled = nl.non_local(theta, phi[:, keys], g[:, keys], pairwise, **options)
    torch.testing.assert_close(shuffled, y, rtol=1e-12, atol=1e-12)
    moved = nl.non_local(theta[:, queries], phi, g, pairwise, **options)
    torch.testing.assert_close(moved, y[:, queries], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairwise", FORMS)
def test_samples_do_not_see_each_other(pairwise):
    theta, phi, g, options = inputs(pairwise)
    both = nl.non_local(theta, phi, g, pairwise, **options)
    alone = nl.non_local(theta[1:], phi[1:], g[1:], pairwise, **options)
    torch.testing.assert_close(both[1:], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairwise", FORMS)
def test_meta_tensors_give_shapes(pairwise):
    theta, phi, g, options = inputs(pairwise, dtype=torch.bfloat16)
    theta, phi, g, mask = (t.to("meta") for t in (theta, phi, g, MASK))
    options = {name: t.to("meta") for name, t in options.items()}
    y = nl.non_local(theta, phi, g, pairwise, mask=mask, **options)
    a = nl.affinity(theta, phi, pairwise, mask=mask, **options)
    assert (y.shape, y.dtype, y.device.type) == ((2, 5, 6), torch.bfloat16, "meta")
    assert (a.shape, a.dtype) == ((2, 5, 3), torch.float32)


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_compiles_as_one_graph(pairwise):
    theta, phi, g, options = inputs(pairwise)
    torch.compiler.reset()
    compiled = torch.compile(nl.non_local, fullgraph=True, backend="eager")
    for mask in (None, MASK):
        y = compiled(theta, phi, g, pairwise, mask=mask, **options)
        close(y, loop_non_local(theta, phi, g, pairwise, mask=mask, **options))


def t(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


OK = {"theta": t(2, 5, 4), "phi": t(2, 3, 4), "g": t(2, 3, 6)}
WRONG = [
    ({"pairwise": "dot_produkt"}, ["pairwise", "'dot_produkt'", "'concatenation'", "did you mean"]),
    ({"pairwise": None}, ["pairwise", "None", "'gaussian'"]),
    ({"theta": t(5, 4)}, ["theta", "(5, 4)", "(B, N, d)"]),
    ({"phi": t(2, 3, 5)}, ["phi", "(2, 3, 5)", "(2, M, 4)"]),
    ({"phi": t(3, 3, 4)}, ["phi", "(3, 3, 4)", "(2, M, 4)"]),
    ({"phi": t(3, 4)}, ["phi", "(3, 4)", "(2, M, 4)"]),
    ({"g": t(2, 4, 6)}, ["g must", "(2, 4, 6)", "(2, 3)"]),
    ({"g": t(2, 3)}, ["g must", "(B, M, c)"]),
    ({"scale": 0.5, "pairwise": "dot_product"}, ["scale", "0.5", "None", "dot_product"]),
    ({"scale": 2.0, "pairwise": "concatenation", "w_f": t(8)}, ["scale", "2.0", "None"]),
    ({"mask": t(2, 3)}, ["mask", "float32", "booleans", "(2, 3)"]),
    ({"mask": t(2, 5, dtype=torch.bool)}, ["mask", "(2, 5)", "(2, 3)"]),
    ({"pairwise": "concatenation"}, ["w_f", "None", "(8,)"]),
    ({"pairwise": "concatenation", "w_f": t(4)}, ["w_f", "(4,)", "(8,)"]),
    ({"w_f": t(8)}, ["w_f", "concatenation", "embedded_gaussian"]),
]
WRONG_QUERIES = [
    (torch.tensor([0, 5]), ["queries", "[0, 5)", "0 to 5"]),
    (torch.tensor([-1]), ["queries", "[0, 5)", "-1"]),
    (torch.tensor([0.0]), ["queries", "integers", "float32"]),
    (torch.tensor([True, False]), ["queries", "integers", "bool"]),
    (torch.zeros(3, 1, dtype=torch.int64), ["queries", "(3, 1)", "B = 2"]),
    (torch.tensor(0), ["queries", "(Q,)", "()"]),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_input_is_named_with_what_is_allowed(change, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are the check)
        nl.non_local(**(OK | change))
    assert [word for word in words if word not in str(error.value)] == []
    if "g" not in change:
        arguments = OK | change
        del arguments["g"]
        with pytest.raises(ValueError, match=words[0]):
            nl.affinity(**arguments)


@pytest.mark.parametrize(("queries", "words"), WRONG_QUERIES)
def test_wrong_queries_are_named_with_what_is_allowed(queries, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        nl.affinity(OK["theta"], OK["phi"], queries=queries)
    assert [word for word in words if word not in str(error.value)] == []
