"""Concatenation by sorting, Σ_j relu(a_i + b_j) g_j / M, against the sum over every pair.

With d = 1 and w_f = (1, 1), a is theta and b is phi.
"""

import pytest
import torch
from torch import Tensor

from nonlocalnet.ops import concatenation as module
from nonlocalnet.ops.concatenation import concatenation

U = 2**-24  # half a unit in the last place of float32, relative


def by_sorting(a, b, g, grad_y, mask=None) -> dict[str, Tensor]:
    """y and the gradients of a, b, g and of both weights: a, b (B, .), g (B, M, c)."""
    leaves = [t.detach().requires_grad_() for t in (a.unsqueeze(2), b.unsqueeze(2), g)]
    w_f = torch.ones(2, dtype=g.dtype, requires_grad=True)
    y = concatenation(*leaves, mask, w_f=w_f)
    da, db, dg, dw = torch.autograd.grad(y, [*leaves, w_f], grad_y)
    return {"y": y.detach(), "a": da.squeeze(2), "b": db.squeeze(2), "g": dg, "w": dw}


def by_pairs(a, b, g, grad_y) -> dict[str, Tensor]:
    """The same, in float64, from the formula."""
    a, b, g, grad_y = (t.double() for t in (a, b, g, grad_y))
    s = a.unsqueeze(2) + b.unsqueeze(1)
    f, step, m = s.relu(), (s > 0).double(), b.shape[1]
    da = (grad_y * (step @ g)).sum(2) / m
    db = (g * (step.mT @ grad_y)).sum(2) / m
    dw = torch.stack([(da * a).sum(), (db * b).sum()])
    return {"y": f @ g / m, "a": da, "b": db, "g": f.mT @ grad_y / m, "w": dw}


def randn(*size, seed=0, dtype=torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=rng, dtype=torch.float64).to(dtype)


def integers(*size, seed=0, most=5) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, size, generator=rng).double()


def assert_exactly(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert [name for name in actual if not torch.equal(actual[name], expected[name])] == []


def test_two_queries_and_two_keys_by_hand():
    a, b = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0]])
    g, grad_y = torch.tensor([[[1.0], [10.0]]]), torch.tensor([[[1.0], [100.0]]])
    # a_i + b_j = [[4, 2], [1, -1]]
    expected = {
        "y": [[[(4 * 1 + 2 * 10) / 2], [1 * 1 / 2]]],
        "a": [[1 * (1 + 10) / 2, 100 * 1 / 2]],
        "b": [[1 * (1 + 100) / 2, 10 * 1 / 2]],
        "g": [[[(4 * 1 + 1 * 100) / 2], [2 * 1 / 2]]],
        "w": [5.5 * 1 + 50 * -2, 50.5 * 3 + 5 * 1],
    }
    tensors = {name: torch.tensor(value) for name, value in expected.items()}
    assert_exactly(by_sorting(a, b, g, grad_y), tensors)


def test_a_pair_at_zero_has_no_gradient_however_often_it_comes():
    a, b = integers(2, 40), integers(2, 32, seed=1)
    a[0, :8], b[0, :8] = -0.0, 0.0
    a[1, :8], b[1, :8] = 0.0, -0.0
    zero = (a.unsqueeze(2) + b.unsqueeze(1) == 0).sum()
    assert zero > 100
    g, grad_y = integers(2, 32, 3, seed=2), integers(2, 40, 3, seed=3)
    # whole numbers over 32: every sum is exact in any order
    assert_exactly(by_sorting(a, b, g, grad_y), by_pairs(a, b, g, grad_y))


def test_no_pair_above_zero_gives_zeros_in_everything():
    a, b = randn(2, 70) - 10, randn(2, 65, seed=1)
    b[0, 0] = 5.0
    assert (a.unsqueeze(2) + b.unsqueeze(1) < 0).all()
    found = by_sorting(a, b, randn(2, 65, 3), randn(2, 70, 3))
    assert [name for name, value in found.items() if value.count_nonzero()] == []


@pytest.mark.parametrize("m", [1, 2, 63, 64, 65, 127, 128, 129, 200])
def test_two_level_sums_are_exact_at_every_remainder_of_a_block(m):
    c = 2**17 // m + 1  # from 2^17 numbers on, a table is summed in two levels
    a, b = integers(1, m), integers(1, m, seed=1)
    g, grad_y = integers(1, m, c, seed=2) * m, integers(1, m, c, seed=3)
    found, expected = by_sorting(a, b, g, grad_y), by_pairs(a, b, g, grad_y)
    assert_exactly({k: found[k] for k in "yab"}, expected)
    # the only division that is not exact: one rounding before the sum, one after
    torch.testing.assert_close(found["g"], expected["g"], rtol=2**-52, atol=0)


@pytest.mark.parametrize("c", [31, 32, 33, 70, 96])
def test_slabs_of_channels_change_nothing(c, monkeypatch):
    monkeypatch.setattr(module, "SLAB", 1)
    a, b = integers(2, 40), integers(2, 64, seed=1)
    g, grad_y = integers(2, 64, c, seed=2), integers(2, 40, c, seed=3)
    assert len(module._slabs(a, b, g)) == -(-c // 32)
    assert_exactly(by_sorting(a, b, g, grad_y), by_pairs(a, b, g, grad_y))


def keys_and_values(case: str, n=192, m=3136, c=48) -> tuple[Tensor, Tensor, Tensor]:
    a, b, g = randn(1, n), randn(1, m, seed=1), randn(1, m, c, seed=2)
    match case:
        case "values have a mean":
            g = g.abs()
        case "values have a large mean":
            g = g + 1e4
        case "far from zero":
            a, b, g = a + 1e5, b - 1e5, g.abs()
        case "hardly anything is seen":
            a, b = a * 1e-3 + 1e3 - 3, b - 1e3
        case "one huge key":
            b[0, 7], g = 1e6, g.abs()
        case "half the keys are far below":
            b[0, ::2] -= 1e6
        case "lognormal":
            b = (4 * b).exp()
    return a, b, g


@pytest.mark.parametrize(
    "case",
    [
        "normal",
        "values have a mean",
        "values have a large mean",
        "far from zero",
        "hardly anything is seen",
        "one huge key",
        "half the keys are far below",
        "lognormal",
    ],
)
def test_float32_errors_are_those_of_a_sum_of_a_block_wherever_the_numbers_lie(case):
    a, b, g = keys_and_values(case)
    grad_y = randn(1, a.shape[1], g.shape[2], seed=3)
    if case != "normal":
        grad_y = grad_y.abs()
    assert min(a.shape[1], b.shape[1]) > module.BLOCK
    found, exact = by_sorting(a, b, g, grad_y), by_pairs(a, b, g, grad_y)
    sums = by_pairs(a, b, g.abs(), grad_y.abs())  # of the same numbers, without their signs
    errors = {name: (found[name].double() - exact[name]).abs() for name in "yabg"}
    assert [k for k, error in errors.items() if not (error <= 64 * U * sums[k]).all()] == []
    assert (exact["y"] != 0).any()


def test_order_of_queries_and_of_distinct_keys_changes_not_a_bit():
    a, b, g, grad_y = randn(2, 90), randn(2, 70, seed=1), randn(2, 70, 3), randn(2, 90, 3)
    assert all(len(row.unique()) == len(row) for row in (*a, *b))
    plain = by_sorting(a, b, g, grad_y)
    queries, keys = (
        torch.randperm(k, generator=torch.Generator().manual_seed(4)) for k in (90, 70)
    )
    moved = by_sorting(a[:, queries], b[:, keys], g[:, keys], grad_y[:, queries])
    back = {"y": queries, "a": queries, "b": keys, "g": keys}
    assert_exactly(
        {name: moved[name] for name in back},
        {name: plain[name][:, order] for name, order in back.items()},
    )


def test_order_of_equal_keys_changes_nothing_but_roundings():
    a, b, g = randn(1, 90).double(), integers(1, 70), randn(1, 70, 3).double()
    keys = torch.randperm(70, generator=torch.Generator().manual_seed(4))
    one = torch.ones(1, 90, 3, dtype=torch.float64)
    plain, moved = by_sorting(a, b, g, one), by_sorting(a, b[:, keys], g[:, keys], one)
    # at most 200 additions of numbers up to 1e2
    torch.testing.assert_close(moved["y"], plain["y"], rtol=0, atol=200 * 1e2 * 2**-53)


def test_a_sample_in_a_batch_is_the_sample_alone_to_the_bit():
    a, b, g, grad_y = randn(3, 90), randn(3, 70, seed=1), randn(3, 70, 5), randn(3, 90, 5)
    whole = by_sorting(a, b, g, grad_y)
    for i in range(3):
        alone = by_sorting(*(t[i : i + 1] for t in (a, b, g, grad_y)))
        assert_exactly(
            {name: alone[name] for name in "yabg"},
            {name: whole[name][i : i + 1] for name in "yabg"},
        )


@pytest.mark.parametrize("c", [3, 1500])
def test_masking_keys_is_deleting_them(c):
    a, b, g, grad_y = (integers(1, *size) for size in ((90,), (129,), (129, c), (90, c)))
    keep = torch.arange(129) % 4 == 1  # 32 keys: the division is exact
    found = by_sorting(a, b, g, grad_y, keep[None])
    expected = by_pairs(a, b[:, keep], g[:, keep], grad_y)
    deleted = {name: found[name][:, keep] if name in "bg" else found[name] for name in found}
    assert_exactly(deleted, expected)
    assert not found["b"][:, ~keep].any()
    assert not found["g"][:, ~keep].any()


@pytest.mark.parametrize("c", [3, 1500])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_nan_reaches_what_sees_it_and_nothing_else(where, c):
    a, b, g, grad_y = randn(2, 90), randn(2, 129, seed=1), randn(2, 129, c), randn(2, 90, c)
    clean = by_sorting(a, b, g, grad_y)
    {"query": a, "key": b, "value": g}[where][0, 7] = torch.nan
    found = by_sorting(a, b, g, grad_y)
    for name in "yabg":
        assert torch.equal(found[name][1], clean[name][1])
    reached = {
        "query": torch.arange(90) == 7,
        "key": torch.ones(90, dtype=torch.bool),
        "value": a[0] + b[0, 7] > 0,
    }[where]
    assert found["y"][0, reached].isnan().all()
    assert torch.equal(found["y"][0, ~reached], clean["y"][0, ~reached])
    # a query or a key that is NaN leaves what it multiplies no number; a value, who sees it
    hit = {"query": found["g"][0], "key": found["g"][0, 7], "value": found["a"][0, reached]}[where]
    assert hit.isnan().all()
    if where == "value":
        assert torch.equal(found["a"][0, ~reached], clean["a"][0, ~reached])


def test_infinite_queries_and_keys_see_as_by_pairs():
    a, b, g = randn(2, 90), randn(2, 70, seed=1), randn(2, 70, 3).abs()
    a[0, 5], b[1, 6] = -torch.inf, torch.inf
    y = by_sorting(a, b, g, torch.ones(2, 90, 3))["y"]
    assert not y[0, 5].any()
    assert y[0].isfinite().all()
    assert (y[1] == torch.inf).all()
    # one query seeing 70 keys: as many float32 additions in either sum
    pairs = ((a[0, :, None] + b[0]).relu() @ g[0]) / 70
    torch.testing.assert_close(y[0], pairs, rtol=140 * U, atol=0)


def test_third_derivatives_are_those_of_the_formula():
    a, b, g = randn(1, 5).double(), randn(1, 4, seed=1).double(), randn(1, 4, 2, seed=2).double()

    def third(function) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (a, b, g)]
        total = function(*leaves).pow(3).sum()
        for _ in range(2):
            first = torch.autograd.grad(total, leaves, create_graph=True)
            total = sum(t.pow(2).sum() for t in first)
        return torch.autograd.grad(total, leaves)

    one = torch.ones(2, dtype=torch.float64)
    sorted_ = third(lambda a, b, g: concatenation(a.unsqueeze(2), b.unsqueeze(2), g, w_f=one))
    pairs = third(lambda a, b, g: (a.unsqueeze(2) + b.unsqueeze(1)).relu() @ g / 4)
    for actual, expected in zip(sorted_, pairs, strict=True):
        assert expected.abs().max() > 1
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
