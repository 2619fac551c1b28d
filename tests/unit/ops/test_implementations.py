"""Every fast implementation against ops/reference.py, at any size, layout, mask and dtype."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import nonlocalnet as nl
from nonlocalnet.ops import explain, precision, reference
from nonlocalnet.ops.dot_product import summary
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

FAST = [
    (form, name)
    for form, names in IMPLEMENTATIONS_OF.items()
    for name in names
    if form != "gaussian"  # below: the same as embedded_gaussian
    and name not in ("auto", "reference", "triton")  # triton: test_kernels.py
]
SOFTMAX = [name for form, name in FAST if form == "embedded_gaussian"]


def inputs(pairwise, b=2, n=5, m=3, d=4, c=6, k=0, seed=0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"theta": (b, n, d), "phi": (b, m, d), "g": (b, m, c)}
    if pairwise == "concatenation":
        shapes["w_f"] = (2 * d,)
    if k:
        shapes["w_z"] = (k, c)
    return {k: torch.randn(v, generator=rng, dtype=torch.float64) for k, v in shapes.items()}


def gradients(function, tensors, grad_y=None, create_graph=False, **options) -> dict[str, Tensor]:
    """y, and the gradient of every tensor, by name."""
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    y = function(**leaves, **options)
    grad_y = torch.ones_like(y) if grad_y is None else grad_y
    found = torch.autograd.grad(y, list(leaves.values()), grad_y, create_graph=create_graph)
    return {name: t.detach() for name, t in zip(["y", *leaves], [y, *found], strict=True)}


def definition(theta, phi, g, pairwise="embedded_gaussian", w_z=None, **options) -> Tensor:
    y = reference.non_local(theta, phi, g, pairwise, **options)
    return y if w_z is None else y @ w_z.mT


def expected(tensors, grad_y=None, **options) -> dict[str, Tensor]:
    wide = {name: t.double() for name, t in tensors.items()}
    grad_y = None if grad_y is None else grad_y.double()
    return gradients(definition, wide, grad_y, **options)


def errors(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Of y and of every gradient: |actual - exact| / |exact|."""
    return {k: float((actual[k].double() - v).norm() / v.norm()) for k, v in exact.items()}


def worse(found: dict[str, float], than: dict[str, float], times=2.0, floor=0.0) -> dict:
    """What is further off than that, with the numbers."""
    return {k: (found[k], than[k]) for k in found if not found[k] <= times * than[k] + floor}


def channels_first(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def channels_last(x: Tensor) -> Tensor:
    x = x.mT.unsqueeze(3).contiguous(memory_format=torch.channels_last)
    return x.flatten(2).mT


def slice_of_a_wider_buffer(x: Tensor) -> Tensor:
    batch, n, c = x.shape
    buffer = x.new_full((batch, n + 1, c + 3), torch.nan)
    buffer[:, 1:, 2:-1] = x
    return buffer[:, 1:, 2:-1]


LAYOUTS = [
    Tensor.contiguous,
    channels_first,
    channels_last,
    slice_of_a_wider_buffer,
]


@pytest.mark.parametrize(("pairwise", "implementation"), FAST)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    sizes=st.fixed_dictionaries(
        {
            "b": st.integers(1, 3),
            **{name: st.integers(1, 70) for name in ("n", "m")},
            **{name: st.integers(1, 9) for name in ("d", "c")},
            "k": st.integers(0, 9),  # 0: no projection after
        }
    ),
    seed=st.integers(0, 1000),
    kept=st.sampled_from([None, 0.1, 0.7]),
    poison=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
    expanded=st.booleans(),
    rows=st.integers(1, 80),
    scale=st.sampled_from([None, 0.4, -1.5]),
)
def test_every_implementation_is_the_definition(
    pairwise, implementation, sizes, seed, kept, poison, layouts, expanded, rows, scale
):
    clean = inputs(pairwise, **sizes, seed=seed)
    rng = torch.Generator().manual_seed(seed + 1)
    b, n, m, c, k = (sizes[name] for name in "bnmck")
    options = {} if implementation in ("linear", "sorted") else {"scale": scale}
    grad_y = torch.randn(b, n, k or c, generator=rng, dtype=torch.float64)
    if expanded:  # as the gradient of a mean over positions is
        grad_y = grad_y[:, :1].expand(b, n, -1)
    given = dict(clean)
    if kept is not None:
        mask = torch.rand(b, m, generator=rng) < kept
        mask[-1] = False
        options["mask"] = mask
        given |= {k: clean[k].masked_fill(~mask.unsqueeze(2), poison) for k in ("phi", "g")}
    given |= {k: lay(given[k]) for k, lay in zip(("theta", "phi", "g"), layouts, strict=False)}
    exact = expected(clean, grad_y, pairwise=pairwise, **options)
    budget = rows * 3 * b * m * 8
    if implementation == "chunked":
        three = {name: given[name] for name in ("theta", "phi", "g")}
        assert explain(**three, implementation=implementation, memory_budget=budget).rows == min(
            rows, n
        )
    options |= {"pairwise": pairwise, "implementation": implementation, "memory_budget": budget}
    grad_y = grad_y if expanded else layouts[3](grad_y)
    for twice in (False, True):  # gradients that have gradients are computed in another way
        actual = gradients(nl.non_local, given, grad_y, create_graph=twice, **options)
        # some 200 additions of 2^-53 each, of numbers up to some 1e3
        for name, value in exact.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("pairwise", "implementation"), FAST)
def test_gradients_of_every_implementation(pairwise, implementation, masked):
    tensors = inputs(pairwise, n=5, m=3, d=2, c=2)
    options = {"mask": torch.tensor([[True, False, True], [False] * 3])} if masked else {}
    if implementation in SOFTMAX:
        options["scale"] = 0.4
    two_rows = 2 * 3 * 2 * 3 * 8  # blocks of 2, 2 and 1 queries

    def f(*leaves):
        named = dict(zip(tensors, leaves, strict=True))
        extra = options | {"implementation": implementation, "memory_budget": two_rows}
        return nl.non_local(**named, pairwise=pairwise, **extra)

    leaves = [t.requires_grad_() for t in tensors.values()]
    assert torch.autograd.gradcheck(f, leaves)
    if implementation != "fused":
        assert torch.autograd.gradgradcheck(f, leaves)


@pytest.mark.parametrize("implementation", SOFTMAX)
def test_gaussian_is_computed_as_embedded_gaussian(implementation):
    tensors = inputs("gaussian")
    both = (
        nl.non_local(**tensors, pairwise=p, implementation=implementation) for p in SOFTMAX_FORMS
    )
    assert torch.equal(*both)


def test_fused_implementation_has_no_second_derivatives():
    tensors = inputs("gaussian", d=4, c=4)
    theta = tensors["theta"].requires_grad_()
    y = nl.non_local(**tensors, implementation="fused")
    (first,) = torch.autograd.grad(y.sum(), theta, create_graph=True)
    with pytest.raises(RuntimeError, match=r"attention.* is not implemented"):
        torch.autograd.grad(first.square().sum(), theta)


def features(pairwise, dtype, n=300, m=200, d=32, c=32, spread=1.0) -> dict[str, Tensor]:
    """As in a network: values have a mean, and scores a standard deviation of `spread`."""
    tensors = inputs(pairwise, n=n, m=m, d=d, c=c)
    tensors["g"] += 1
    tensors["theta"] *= spread / d**0.5
    return {name: t.to(dtype) for name, t in tensors.items()}


def upstream(dtype, n=300, c=32) -> Tensor:
    return torch.randn(2, n, c, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("pairwise", "implementation", "spread"),
    [
        *((*case, 1) for case in FAST),
        *(("embedded_gaussian", name, 128) for name in SOFTMAX),
    ],
)
def test_float32_errors_are_at_most_twice_the_references(pairwise, implementation, spread, masked):
    tensors, grad_y = features(pairwise, torch.float32, spread=spread), upstream(torch.float32)
    mask = torch.arange(200) % 3 > torch.tensor([[0], [1]]) if masked else None
    options = {"pairwise": pairwise, "mask": mask}
    exact = expected(tensors, grad_y, **options)
    slow = gradients(nl.non_local, tensors, grad_y, implementation="reference", **options)
    seven_rows = 7 * 3 * 2 * 200 * 4
    fast = gradients(
        nl.non_local,
        tensors,
        grad_y,
        implementation=implementation,
        memory_budget=seven_rows,
        **options,
    )
    # the floor: what rounding a score, or its logarithm of a sum, does to a weight
    assert worse(errors(fast, exact), errors(slow, exact), floor=spread * 2**-24) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("pairwise", "implementation"), FAST)
def test_half_precision_costs_one_rounding_of_y_and_of_each_gradient(
    pairwise, implementation, dtype, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: False)
    tensors, grad_y = features(pairwise, dtype), upstream(dtype)
    exact = expected(tensors, grad_y, pairwise=pairwise)
    half = gradients(
        nl.non_local, tensors, grad_y, pairwise=pairwise, implementation=implementation
    )
    assert {t.dtype for t in half.values()} == {dtype}
    # an error uniform in ± eps/2 has that root mean square; two such errors are beyond it
    one_rounding = dict.fromkeys(exact, torch.finfo(dtype).eps / 2 / 3**0.5)
    assert worse(errors(half, exact), one_rounding, times=1) == {}


@pytest.mark.parametrize("spread", [1, 8])
@pytest.mark.parametrize(("pairwise", "implementation"), FAST)
def test_native_bfloat16_errors_are_at_most_twice_the_plain_formulas(
    pairwise, implementation, spread, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: True)
    tensors = features(pairwise, torch.bfloat16, n=260, m=33, d=16, c=16, spread=spread)
    grad_y = upstream(torch.bfloat16, n=260, c=16)
    exact = expected(tensors, grad_y, pairwise=pairwise)
    plain = gradients(definition, tensors, grad_y, pairwise=pairwise)
    two_rows = 2 * 3 * 2 * 33 * 4  # many blocks, whose sums must not be in half precision
    options = {"pairwise": pairwise, "implementation": implementation, "memory_budget": two_rows}
    native = torch.bfloat16 if implementation in ("linear", "chunked") else torch.float32
    assert explain(**tensors, **options).dtype == native
    fast = gradients(nl.non_local, tensors, grad_y, **options)
    assert worse(errors(fast, exact), errors(plain, exact)) == {}


def test_dot_product_is_the_definition_on_both_sides_of_the_crossover():
    implementations = []
    for n, m in [(1, 1), (3, 50), (8, 8), (9, 9), (10, 7), (50, 3), (40, 40), (400, 100)]:
        tensors = inputs("dot_product", n=n, m=m, d=8, c=8)
        y = nl.non_local(**tensors, pairwise="dot_product")
        exact = expected(tensors, pairwise="dot_product")["y"]
        torch.testing.assert_close(y, exact, rtol=1e-12, atol=1e-12)
        implementations.append(explain(**tensors, pairwise="dot_product").implementation)
    assert set(implementations) == {"reference", "linear"}


@pytest.mark.parametrize("k", [2, 64])
@pytest.mark.parametrize("n", [5, 500])
def test_projection_after_a_dot_product_is_done_in_the_cheaper_order(n, k):
    d, m, c = 8, 7, 16
    tensors = inputs("dot_product", b=1, n=n, m=m, d=d, c=c, k=k)
    with FlopCounterMode(display=False) as counter:
        nl.non_local(**tensors, pairwise="dot_product", implementation="linear")
    cheaper = min(d * c * k + n * d * k, n * d * c + n * c * k)
    assert counter.get_total_flops() == 2 * (m * d * c + cheaper)


@pytest.mark.parametrize(("pairwise", "implementation"), FAST)
def test_projection_after_is_written_in_the_memory_order_of_g(pairwise, implementation):
    tensors = inputs(pairwise, k=9)
    for like, strides in [(Tensor.contiguous, (45, 9, 1)), (channels_first, (45, 1, 5))]:
        y = nl.non_local(
            **tensors | {"g": like(tensors["g"])}, pairwise=pairwise, implementation=implementation
        )
        assert y.stride() == strides


@pytest.mark.parametrize("masked", [False, True])
def test_dot_products_sum_does_not_overflow_in_float16(masked):
    m = 12544
    tensors = inputs("dot_product", b=1, n=3, m=m, d=4, c=4)
    theta, phi, g = ((t + 3).half() for t in tensors.values())
    assert (phi.double().mT @ g.double()).min() > torch.finfo(torch.float16).max
    mask = torch.arange(m)[None] < m - 1 if masked else None
    y = theta @ summary(phi, g, mask)
    exact = expected({"theta": theta, "phi": phi, "g": g}, pairwise="dot_product", mask=mask)["y"]
    # roundings of g / M, of the summary and of y, each at most 2^-11 (2^-10: g / M is subnormal)
    torch.testing.assert_close(y.double(), exact, rtol=2**-9, atol=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("implementation", SOFTMAX)
def test_what_every_key_adds_to_the_scores_changes_nothing(implementation, masked):
    tensors, grad_y = features("embedded_gaussian", torch.float32), upstream(torch.float32)
    mask = torch.arange(200)[None] < torch.tensor([[200], [77]]) if masked else None
    dphi = gradients(nl.non_local, tensors, grad_y, implementation=implementation, mask=mask)[
        "phi"
    ].double()
    # 32 float32 additions in a score, 300 in a gradient, mostly up and down
    assert (dphi.sum(1).abs() <= 32 * 2**-24 * dphi.abs().sum(1)).all()
    assert dphi.abs().sum() > 1


@pytest.mark.parametrize("spread", [1, 128])
@pytest.mark.parametrize("implementation", SOFTMAX)
def test_rows_of_every_softmax_implementation_sum_to_one(implementation, spread):
    tensors = features("embedded_gaussian", torch.float32, spread=spread)
    mask = torch.arange(200)[None] < torch.tensor([[200], [77]])
    tensors["g"] = torch.ones(2, 200, 32)
    y = nl.non_local(**tensors, implementation=implementation, mask=mask)
    # a sum of 200 float32 weights, divided by itself
    torch.testing.assert_close(y, torch.ones_like(y), rtol=0, atol=200 * 2**-24)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.filterwarnings("ignore:Flash attention")
def test_fused_implementation_never_falls_back_to_the_matrix(first, masked):
    tensors = {k: t.float() for k, t in inputs("gaussian", n=40, m=30, d=8, c=8).items()}
    if first:
        tensors = {name: channels_first(t) for name, t in tensors.items()}
    mask = torch.arange(30)[None] < torch.tensor([[30], [7]]) if masked else None
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # an error instead of the fallback
        gradients(nl.non_local, tensors, implementation="fused", mask=mask)
        wider = tensors | {"g": torch.zeros(2, 30, 9)}
        with pytest.raises(RuntimeError, match="No available kernel"):
            nl.non_local(**wider, implementation="fused", mask=mask)


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
@pytest.mark.parametrize(("pairwise", "implementation"), FAST)
def test_nothing_to_compute_is_zeros_on_every_implementation(pairwise, implementation, size):
    n, m = size
    tensors = inputs(pairwise, b=2, n=n, m=m, d=4, c=5)
    y = nl.non_local(**tensors, pairwise=pairwise, implementation=implementation)
    assert torch.equal(y, torch.zeros(2, n, 5, dtype=torch.float64))
