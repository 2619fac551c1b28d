"""The operation over the top keys, against a dense computation in float64."""

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.ops import PAIRWISE, reference
from nonlocalnet.ops.top_keys import top_keys

N, M, D, C = 7, 13, 6, 3


def operands(pairwise, heads=1):
    generator = torch.Generator().manual_seed(3)
    theta, phi, g = (
        torch.randn(n, d, generator=generator, dtype=torch.float64)
        for n, d in ((N, D), (M, D), (M, C))
    )
    options = {"heads": heads}
    if pairwise in ("gaussian", "embedded_gaussian"):
        options["scale"] = 0.7
    if pairwise == "concatenation":
        options["w_f"] = torch.randn(2 * D, generator=generator, dtype=torch.float64)
    return theta, phi, g, options


def dense(theta, phi, g, pairwise, options, top, near=None):
    """Compute every weight, sort each row, and keep the first: with loops."""
    rows = nl.affinity(theta[None], phi[None], pairwise, **options)
    rows = rows.mean(1)[0] if options["heads"] > 1 else rows[0]
    y = torch.zeros(N, C, dtype=torch.float64)
    for i in range(N):
        seen = [j for j in range(M) if near is None or near[i, j]]
        best = sorted(seen, key=lambda j: -rows[i, j])[:top]
        weights = [max(float(rows[i, j]), 0) for j in best]
        for j, weight in zip(best, weights, strict=True):
            y[i] += weight * g[j] / max(sum(weights), 1e-300)
    return y


@pytest.mark.parametrize("top", [1, 4, None])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_equals_a_dense_computation(pairwise, heads, top):
    theta, phi, g, options = operands(pairwise, heads)
    y = top_keys(theta, phi, g, pairwise, top=top, **options)
    torch.testing.assert_close(y, dense(theta, phi, g, pairwise, options, top))


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_sees_keys_within_the_radius_only(pairwise):
    theta, phi, g, options = operands(pairwise)
    generator = torch.Generator().manual_seed(4)
    places = torch.rand(N, 2, generator=generator), torch.rand(M, 2, generator=generator)
    places[0][2] = 9.0  # far from all
    near = torch.cdist(*places) <= 0.3
    assert not near.any(1).all()  # one sees nothing
    y = top_keys(theta, phi, g, pairwise, top=2, places=places, radius=0.3, **options)
    torch.testing.assert_close(y, dense(theta, phi, g, pairwise, options, 2, near))
    radius = torch.where(torch.arange(M) < 5, torch.inf, 0.3)
    near |= torch.arange(M) < 5
    y = top_keys(theta, phi, g, pairwise, top=2, places=places, radius=radius, **options)
    torch.testing.assert_close(y, dense(theta, phi, g, pairwise, options, 2, near))


def test_a_near_key_counts_though_a_far_one_outweighs_it_beyond_float32():
    theta, phi = torch.ones(1, 1), torch.tensor([[1000.0], [1.0]])
    places = torch.zeros(1, 2), torch.tensor([[9.0, 9.0], [0.0, 0.0]])
    y = top_keys(theta, phi, torch.tensor([[5.0], [7.0]]), places=places, radius=1.0)
    assert y.item() == 7


@pytest.mark.parametrize("budget", [1, 3000, None])
def test_chunks_change_nothing_and_bound_the_rows(budget, monkeypatch):
    theta, phi, g, options = operands("gaussian")
    rows, affinity = [], reference.affinity
    monkeypatch.setattr(
        reference, "affinity", lambda t, *a, **k: rows.append(t.shape[1]) or affinity(t, *a, **k)
    )
    y = top_keys(theta, phi, g, top=3, memory_budget=budget, **options)
    assert sum(rows) == N
    assert max(rows) == {1: 1, None: N}.get(budget, max(rows))
    assert budget != 3000 or 1 < max(rows) < N
    torch.testing.assert_close(y, dense(theta, phi, g, "gaussian", options, 3))


def test_softmax_over_all_keys_is_the_operation():
    theta, phi, g, options = operands("embedded_gaussian")
    y = nl.non_local(theta[None], phi[None], g[None], "embedded_gaussian", **options)[0]
    torch.testing.assert_close(top_keys(theta, phi, g, "embedded_gaussian", **options), y)
