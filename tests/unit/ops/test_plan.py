"""The choice of implementation depends only on the form, the sizes, the dtype and the device."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nonlocalnet as nl
from nonlocalnet.ops import Pairwise, dispatch, dot_product, plan, precision, reference, softmax
from nonlocalnet.ops.pairwise import FUNCTIONS
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF, Plan, choose

FORMS = get_args(Pairwise)
HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32, torch.float64)
FASTEST_EXPORTED = {
    "gaussian": "fused",
    "embedded_gaussian": "fused",
    "dot_product": "linear",
    "concatenation": "sorted",
}


def test_every_pairwise_function_has_its_row_and_its_implementations():
    assert set(get_args(Pairwise)) == set(FUNCTIONS) == set(IMPLEMENTATIONS_OF)


@pytest.fixture(params=[False, True], ids=["no bfloat16 units", "bfloat16 units"])
def bfloat16_units(request, monkeypatch) -> bool:
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairwise", FORMS)
def test_small_sizes_take_the_textbook_on_a_cpu(pairwise, dtype, bfloat16_units):
    assert (
        choose(pairwise, (2, 49, 16, 64, 64), dtype=dtype, device="cpu").implementation
        == "reference"
    )


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairwise", FORMS)
def test_large_sizes_never_take_the_textbook(pairwise, dtype, device):
    for d, c in [(64, 64), (512, 512), (1024, 512)]:
        size = (1, 10**6, 10**6, d, c)  # no memory holds it: nothing is computed here
        assert choose(pairwise, size, dtype=dtype, device=device).implementation != "reference"


sizes = st.tuples(
    st.integers(1, 64),
    *[st.integers(1, 70) | st.integers(1, 200_000)] * 2,
    *[st.integers(1, 64) | st.integers(1, 1024)] * 2,
)
budgets = st.none() | st.integers(1, 2**36)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    pairwise=st.sampled_from(FORMS),
    size=sizes,
    dtype=st.sampled_from(DTYPES),
    device=st.sampled_from(["cpu", "cuda", "mps"]),
    grad=st.booleans(),
    budget=budgets,
)
def test_a_matrix_is_made_only_where_it_fits_the_budget(
    pairwise, size, dtype, device, grad, budget
):
    chosen = choose(pairwise, size, dtype=dtype, device=device, grad=grad, memory_budget=budget)
    assert chosen.implementation in IMPLEMENTATIONS_OF[pairwise]
    assert chosen.implementation != "auto"
    batch, n, m, d, c = size
    if chosen.implementation != "reference":
        assert chosen.implementation == "chunked" or chosen.matrix_bytes == 0
    elif pairwise == "dot_product":  # whatever the budget: the matrix is smaller than θ and g
        assert n * m <= n * d + m * c
    else:
        assert chosen.matrix_bytes == 3 * batch * n * m * chosen.dtype.itemsize
        assert chosen.matrix_bytes <= (budget or plan.BUDGET)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=sizes,
    dtype=st.sampled_from(DTYPES),
    device=st.sampled_from(["cpu", "cuda"]),
    budget=budgets,
)
def test_blocks_are_the_largest_that_fit_the_budget_and_the_cache(size, dtype, device, budget):
    batch, n, m, _, _ = size
    wide = max(dtype.itemsize, 4)  # scores are float32 at least
    options = {
        "dtype": dtype,
        "device": device,
        "implementation": "chunked",
        "memory_budget": budget,
    }
    rows = choose("gaussian", size, **options).rows

    def fit(rows: int) -> bool:
        numbers = rows * batch * m
        cached = device != "cpu" or numbers <= plan.CPU_CHUNK
        return cached and 3 * numbers * wide <= (budget or plan.BUDGET)

    assert 1 <= rows <= n
    assert fit(rows) or rows == 1
    assert rows == n or not fit(rows + 1)


@pytest.mark.parametrize("m", [1, 100])
def test_concatenation_is_sorted_from_the_measured_number_of_pairs_on(m):
    for device, limit in [("cpu", 200_000), ("cuda", 5_000_000)]:
        for batch in (1, 2):  # pairs of a sample
            above, below = (
                choose("concatenation", (batch, n, m, 4, 4), dtype=torch.float32, device=device)
                for n in (limit // m, limit // m - 1)
            )
            assert (above.implementation, below.implementation) == ("sorted", "reference")


def test_dot_product_takes_the_order_with_fewer_multiply_adds():
    for n, m, d, c in [
        (12, 12, 12, 12),
        (13, 12, 12, 12),
        (784, 196, 512, 512),
        (3136, 784, 512, 9),
    ]:
        fewer = "linear" if (n + m) * d * c < n * m * (d + c) else "reference"
        for device, dtype in [
            ("cpu", torch.bfloat16),
            ("cpu", torch.float32),
            ("cuda", torch.float32),
        ]:
            assert (
                choose("dot_product", (3, n, m, d, c), dtype=dtype, device=device).implementation
                == fewer
            )
    for dtype in HALF:  # a matrix of scores would be rounded to half precision
        small = choose("dot_product", (3, 4, 4, 64, 64), dtype=dtype, device="cuda")
        assert (small.implementation, small.dtype) == ("linear", dtype)


LARGE = (1, 12544, 3136, 64, 64)  # 472 MB of float32 matrices


@pytest.mark.parametrize(
    ("size", "dtype", "options", "implementation"),
    [
        (LARGE, torch.float32, {}, "fused"),
        (LARGE, torch.float32, {"memory_budget": 2**29}, "reference"),
        (LARGE, torch.float16, {}, "fused"),  # as float32
        ((*LARGE[:3], 64, 32), torch.float32, {}, "chunked"),  # torch would make the matrix
        ((1, 1000, 500, 64, 64), torch.float32, {}, "reference"),
        ((1, 1000, 500, 64, 64), torch.float32, {"grad": False}, "fused"),
        ((1, 999, 500, 64, 64), torch.float32, {"grad": False}, "reference"),
        ((2, 1000, 250, 64, 64), torch.float32, {"grad": False}, "fused"),
        ((1, 1000, 500, 64, 32), torch.float32, {"grad": False}, "reference"),
        (LARGE, torch.float32, {"device": "mps"}, "chunked"),
        ((1, 4, 4, 256, 64), torch.bfloat16, {"device": "cuda"}, "fused"),
        ((1, 4, 4, 256, 64), torch.float64, {"device": "cuda"}, "reference"),
        ((1, 4, 4, 264, 64), torch.bfloat16, {"device": "cuda"}, "chunked"),
        ((1, 4, 4, 64, 264), torch.bfloat16, {"device": "cuda"}, "chunked"),
        ((1, 4, 4, 60, 64), torch.float32, {"device": "cuda"}, "reference"),
        ((1, 4, 4, 64, 60), torch.float32, {"device": "cuda"}, "reference"),
        ((*LARGE[:3], 512, 512), torch.float32, {"device": "cuda"}, "chunked"),
    ],
)
def test_softmax_forms_take_the_fastest_that_does_not_fall_back(
    size, dtype, options, implementation
):
    options = {"device": "cpu", "dtype": dtype} | options
    assert {choose(form, size, **options).implementation for form in FORMS[:2]} == {implementation}


def test_a_cpu_with_bfloat16_units_takes_blocks_of_bfloat16(bfloat16_units):
    chosen = choose("gaussian", LARGE, dtype=torch.bfloat16, device="cpu")
    expected = ("chunked", torch.bfloat16) if bfloat16_units else ("fused", torch.float32)
    assert (chosen.implementation, chosen.dtype) == expected


@pytest.mark.parametrize("half", HALF)
def test_products_are_in_half_precision_only_where_sums_and_scores_are_not(half, bfloat16_units):
    cpu = half if half == torch.bfloat16 and bfloat16_units else torch.float32
    expected = {
        ("gaussian", "reference"): (cpu, torch.float32),
        ("gaussian", "fused"): (torch.float32, half),
        ("gaussian", "chunked"): (cpu, half),
        ("dot_product", "reference"): (cpu, torch.float32),
        ("dot_product", "linear"): (cpu, half),
        ("concatenation", "reference"): (torch.float32, torch.float32),
        ("concatenation", "sorted"): (torch.float32, torch.float32),
    }
    for (pairwise, implementation), dtypes in expected.items():
        for device, dtype in zip(("cpu", "cuda"), dtypes, strict=True):
            options = {"device": device, "implementation": implementation}
            assert choose(pairwise, (1, 9, 9, 8, 8), dtype=half, **options).dtype == dtype
            for same in (torch.float32, torch.float64):
                assert choose(pairwise, (1, 9, 9, 8, 8), dtype=same, **options).dtype == same


@pytest.mark.parametrize("pairwise", FORMS)
def test_nothing_to_compute_is_the_references(pairwise):
    for size, device in [
        (LARGE, "meta"),
        ((1, 10**6, 0, 8, 8), "cpu"),
        ((0, 10**6, 10**6, 8, 8), "cuda"),
    ]:
        assert (
            choose(pairwise, size, dtype=torch.float32, device=device).implementation == "reference"
        )


@pytest.mark.parametrize("pairwise", FORMS)
def test_an_export_takes_one_implementation_whatever_the_sizes(pairwise, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for size in [(1, 1, 1, 1, 1), LARGE]:
        chosen = choose(pairwise, size, dtype=torch.float32, device="cpu")
        assert chosen.implementation == FASTEST_EXPORTED[pairwise]
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    chosen = choose(pairwise, LARGE, dtype=torch.float32, device="cpu")
    assert chosen.implementation == (FASTEST_EXPORTED | {"concatenation": "reference"})[pairwise]


def test_a_plan_is_printed_as_its_implementation_and_its_reason():
    chosen = choose("gaussian", LARGE, dtype=torch.float32, device="cpu", implementation="chunked")
    assert str(chosen) == "chunked: asked for"
    assert str(Plan("sorted", "why not", torch.float32)) == "sorted: why not"


def tensors(pairwise, n=5, m=3, d=4, c=4, dtype=torch.float32):
    shapes = {"theta": (1, n, d), "phi": (1, m, d), "g": (1, m, c)}
    if pairwise == "concatenation":
        shapes["w_f"] = (2 * d,)
    return {name: torch.ones(shape, dtype=dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("pairwise", FORMS)
def test_an_implementation_of_another_form_is_refused_with_the_allowed_ones(pairwise):
    others = {name for names in IMPLEMENTATIONS_OF.values() for name in names} - {
        *IMPLEMENTATIONS_OF[pairwise]
    }
    assert others
    for function in (nl.non_local, nl.ops.explain):
        for implementation in others:
            with pytest.raises(
                ValueError, match=f"implementation .*{pairwise!r}; got {implementation!r}"
            ) as error:
                function(**tensors(pairwise), pairwise=pairwise, implementation=implementation)
            assert all(
                repr(allowed) in str(error.value) for allowed in IMPLEMENTATIONS_OF[pairwise]
            )


def test_unknown_paths_and_budgets_are_refused():
    three = tensors("gaussian")
    with pytest.raises(
        ValueError, match=r"implementation .*'chunked'.*; got 'chunk'; did you mean 'chunked'"
    ):
        nl.non_local(**three, implementation="chunk")
    for budget in (0, -1):
        with pytest.raises(ValueError, match=rf"memory_budget .* 1 \(bytes\); got {budget}"):
            nl.non_local(**three, memory_budget=budget)
    assert nl.ops.explain(**three, memory_budget=1).implementation == "fused"


COMPUTES = {  # where non_local finds what computes an implementation
    "reference": (reference, "non_local"),
    "linear": (dot_product, "summaries"),
    "sorted": (dispatch, "concatenation"),
    "fused": (softmax, "fused"),
    "chunked": (softmax, "chunked"),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("pairwise", FORMS)
def test_explain_tells_what_is_computed(pairwise, dtype, monkeypatch, bfloat16_units):
    taken = []

    def spy(implementation, function):
        def recorded(*arguments, **options):
            taken.append((implementation, arguments[0].dtype, options.get("rows")))
            return function(*arguments, **options)

        return recorded

    for implementation, (home, name) in COMPUTES.items():
        monkeypatch.setattr(home, name, spy(implementation, getattr(home, name)))
    explained = []
    for implementation in IMPLEMENTATIONS_OF[pairwise]:
        for n, m in [(5, 3), (1000, 500)]:
            for grad, budget in [(False, None), (True, None), (True, 1000)]:
                inputs = tensors(pairwise, n, m, dtype=dtype)
                inputs["phi"].requires_grad_(grad)
                options = {
                    "pairwise": pairwise,
                    "implementation": implementation,
                    "memory_budget": budget,
                }
                if implementation == "triton":  # test_kernels.py
                    continue
                chosen = nl.ops.explain(**inputs, **options)
                explained.append((chosen.implementation, chosen.dtype, chosen.rows))
                nl.non_local(**inputs, **options)
    assert taken == explained
    assert {implementation for implementation, *_ in explained} == {
        *IMPLEMENTATIONS_OF[pairwise]
    } - {"auto", "triton"}


def test_gradients_are_planned_for_where_they_are_recorded():
    inputs = tensors("gaussian", 1000, 500)
    for name in ("theta", "phi", "g"):
        leaf = inputs | {name: inputs[name].clone().requires_grad_()}
        assert nl.ops.explain(**leaf).implementation == "reference"
        with torch.no_grad():
            assert nl.ops.explain(**leaf).implementation == "fused"
