"""Several heads and the frame-causal extent, in every implementation, against a loop with masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import nonlocalnet as nl
from nonlocalnet.ops import explain, precision
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF, choose

CASES = [
    (form, name)
    for form, names in IMPLEMENTATIONS_OF.items()
    for name in names
    if form != "gaussian" and name != "triton"  # the same as embedded_gaussian; needs a GPU
]
ids = "-".join


def draw(pairwise, b=2, n=6, m=3, d=4, c=6, k=0, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    shapes = {"theta": (b, n, d), "phi": (b, m, d), "g": (b, m, c)}
    shapes |= {"w_f": (2 * d,)} if pairwise == "concatenation" else {}
    shapes |= {"w_z": (k, c)} if k else {}
    wide = {key: torch.randn(v, generator=rng, dtype=torch.float64) for key, v in shapes.items()}
    return {key: t.to(dtype) for key, t in wide.items()}


def rows(theta, phi, w_f, pairwise, heads, frames, scale, mask) -> list[Tensor]:
    """The weights of each head, by a mask over all pairs."""
    n, m, d = theta.shape[1], phi.shape[1], theta.shape[2]
    frame_of_query, frame_of_key = (torch.arange(x) * (frames or 1) // x for x in (n, m))
    seen = (frame_of_query[:, None] >= frame_of_key).expand(theta.shape[0], n, m)
    if mask is not None:
        seen = seen & mask[:, None]
    count = seen.sum(2, keepdim=True).clamp(min=1)
    found = []
    for h in range(heads):
        own = slice(h * d // heads, (h + 1) * d // heads)
        if pairwise == "concatenation":
            a = torch.einsum("d,bnd->bn", w_f[:d][own], theta[..., own])
            b = torch.einsum("d,bmd->bm", w_f[d:][own], phi[..., own])
            found.append((a[:, :, None] + b[:, None]).clamp(min=0) * seen / count)
            continue
        s = torch.einsum("bnd,bmd->bnm", theta[..., own], phi[..., own])
        if pairwise == "dot_product":
            found.append(s * seen / count)
        else:
            f = torch.where(seen, s * (1 if scale is None else scale), 0).exp() * seen
            found.append(f / torch.where(seen.any(2, keepdim=True), f.sum(2, keepdim=True), 1))
    return found


def definition(
    theta, phi, g, w_f=None, w_z=None, *, pairwise, heads=1, causal_frames=None, **options
):
    scale, mask = options.get("scale"), options.get("mask")
    each = zip(
        rows(theta, phi, w_f, pairwise, heads, causal_frames, scale, mask),
        g.chunk(heads, dim=2),
        strict=True,
    )
    y = torch.cat([torch.einsum("bnm,bmc->bnc", f, v) for f, v in each], dim=2)
    return y if w_z is None else torch.einsum("kc,bnc->bnk", w_z, y)


def gradients(function, tensors, grad_y, twice=False, **options):
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    y = function(**leaves, **options)
    found = torch.autograd.grad(y, list(leaves.values()), grad_y, create_graph=twice)
    return {key: t.detach() for key, t in zip(["y", *leaves], [y, *found], strict=True)}


@pytest.mark.parametrize(("pairwise", "implementation"), CASES, ids=map(ids, CASES))
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    frames=st.none() | st.integers(1, 7),
    heads=st.integers(1, 3),
    sizes=st.fixed_dictionaries({key: st.integers(1, 5) for key in ("n", "m", "d", "c")}),
    k=st.integers(0, 4),
    seed=st.integers(0, 1000),
    kept=st.sampled_from([None, 0.1, 0.7]),
    channels_first=st.booleans(),
    twice=st.booleans(),
)
def test_every_implementation_is_the_definition(
    pairwise, implementation, batch, frames, heads, sizes, k, seed, kept, channels_first, twice
):
    sizes = {key: x * ((frames or 1) if key in "nm" else heads) for key, x in sizes.items()}
    tensors = draw(pairwise, b=batch, k=k, seed=seed, **sizes)
    rng = torch.Generator().manual_seed(seed + 1)
    grad_y = torch.randn(batch, sizes["n"], k or sizes["c"], generator=rng, dtype=torch.float64)
    options = {"pairwise": pairwise, "heads": heads, "causal_frames": frames}
    options |= {"scale": 0.4} if pairwise in SOFTMAX_FORMS else {}
    given = dict(tensors)
    if kept is not None:
        options["mask"] = mask = torch.rand(batch, sizes["m"], generator=rng) < kept
        for key in ("phi", "g"):
            given[key] = given[key].masked_fill(~mask.unsqueeze(2), torch.nan)
    if channels_first:
        given |= {key: given[key].mT.contiguous().mT for key in ("theta", "phi", "g")}
    expected = gradients(definition, tensors, grad_y, **options)
    options |= {"implementation": implementation, "memory_budget": 3 * 2 * batch * sizes["m"] * 8}
    actual = gradients(nl.non_local, given, grad_y, twice=twice, **options)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-11, atol=1e-11, msg=key)


@pytest.mark.parametrize(("pairwise", "implementation"), CASES, ids=map(ids, CASES))
def test_gradients_of_every_implementation(pairwise, implementation):
    tensors = draw(pairwise, b=1, n=6, m=3, d=2, c=2)
    options = {"heads": 2, "causal_frames": 3, "implementation": implementation}
    options |= {"mask": torch.tensor([[False, True, True]])}

    def f(*leaves):
        named = dict(zip(tensors, leaves, strict=True))
        return nl.non_local(**named, pairwise=pairwise, **options)

    leaves = [t.requires_grad_() for t in tensors.values()]
    assert torch.autograd.gradcheck(f, leaves)
    if explain(**tensors, pairwise=pairwise, **options).implementation != "fused":
        assert torch.autograd.gradgradcheck(f, leaves)


@pytest.mark.parametrize("poison", [1e3, torch.nan, torch.inf])
@pytest.mark.parametrize(("pairwise", "implementation"), CASES, ids=map(ids, CASES))
def test_later_frames_change_no_bit_and_get_no_gradient(pairwise, implementation, poison):
    frames, own, keys = 5, 4, 2
    tensors = draw(pairwise, n=frames * own, m=frames * keys, d=4, c=4, dtype=torch.float32)
    tensors = {key: x.requires_grad_() for key, x in tensors.items()}
    options = {"pairwise": pairwise, "causal_frames": frames, "implementation": implementation}
    for heads in (1, 2):
        y = nl.non_local(**tensors, heads=heads, **options)
        for t in range(1, frames):
            changed = {key: x.detach().clone() for key, x in tensors.items()}
            changed["theta"][:, t * own :] = poison
            changed["phi"][:, t * keys :] = poison
            changed["g"][:, t * keys :] = poison
            leaves = {key: x.requires_grad_() for key, x in changed.items()}
            early = nl.non_local(**leaves, heads=heads, **options)[:, : t * own]
            assert torch.equal(early, y[:, : t * own])
        if poison == 1e3:
            early[:, : 2 * own].sum().backward()
            assert all(leaves[key].grad[:, 2 * keys :].abs().max() == 0 for key in ("phi", "g"))
            assert all(leaves[key].grad[:, : 2 * keys].abs().max() > 0 for key in ("phi", "g"))


@pytest.mark.parametrize(("pairwise", "implementation"), CASES, ids=map(ids, CASES))
def test_means_are_over_the_keys_that_a_query_sees(pairwise, implementation):
    # all f alike: y_i is the mean of the g_j that it sees, times the f of a mean form
    g = torch.tensor([1.0, 3, 8, 0, 3, 0]).view(1, 6, 1)  # two keys in each of three frames
    tensors = {"theta": torch.ones(1, 3, 1), "phi": torch.ones(1, 6, 1), "g": g}
    f = 1
    if pairwise == "concatenation":
        tensors["w_f"], f = torch.ones(2), 2
    options = {"pairwise": pairwise, "causal_frames": 3, "implementation": implementation}
    y = nl.non_local(**tensors, **options).flatten()
    torch.testing.assert_close(y, f * torch.tensor([2, 3, 2.5]))
    mask = torch.tensor([[False, False, True, False, False, True]])
    y = nl.non_local(**tensors, mask=mask, **options).flatten()
    torch.testing.assert_close(y, f * torch.tensor([0.0, 8, 4]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("pairwise", "implementation"), CASES, ids=map(ids, CASES))
def test_errors_in_lower_precision_are_one_rounding(pairwise, implementation, dtype, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: False)
    tensors = draw(pairwise, n=60, m=40, d=8, c=8)
    tensors["g"] += 1
    tensors = {key: t.to(dtype) for key, t in tensors.items()}
    grad_y = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    options = {"pairwise": pairwise, "heads": 2, "causal_frames": 5}
    wide = {key: t.double() for key, t in tensors.items()}
    expected = gradients(definition, wide, grad_y.double(), **options)
    actual = gradients(nl.non_local, tensors, grad_y, implementation=implementation, **options)
    # float32 sums some hundred terms; the others are rounded once more, at the end
    allowed = 100 * 2**-24 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    for key, exact in expected.items():
        assert actual[key].dtype == dtype
        assert (actual[key].double() - exact).norm() <= allowed * exact.norm(), key


@pytest.mark.parametrize("pairwise", IMPLEMENTATIONS_OF)
def test_affinity_has_rows_of_each_head_with_zeros_for_later_frames(pairwise):
    tensors = draw(pairwise, n=12, m=8)
    del tensors["g"]
    mask = torch.rand(2, 8, generator=torch.Generator().manual_seed(2)) < 0.7
    options = {"scale": 0.3} if pairwise in SOFTMAX_FORMS else {}
    for frames in (None, 4):
        for real in (None, mask):
            every = rows(
                tensors["theta"], tensors["phi"], tensors.get("w_f"), pairwise, 2, frames,
                options.get("scale"), real,
            )  # fmt: skip
            expected = torch.stack(every, dim=1)
            arguments = tensors | options | {"heads": 2, "causal_frames": frames, "mask": real}
            a = nl.affinity(**arguments, pairwise=pairwise)
            torch.testing.assert_close(a, expected, rtol=1e-12, atol=1e-12)
            for chosen in (torch.tensor([11, 0, 5]), torch.tensor([[11, 2], [3, 0]])):
                some = nl.affinity(**arguments, pairwise=pairwise, queries=chosen)
                for b in range(2):
                    own = chosen if chosen.ndim == 1 else chosen[b]
                    torch.testing.assert_close(some[b], expected[b][:, own], rtol=1e-12, atol=1e-12)


def test_a_plan_counts_the_pairs_that_are_seen_and_the_queries_of_a_frame():
    size = (1, 8 * 1000, 8 * 500, 64, 64)
    options = {"dtype": torch.float32, "device": "cpu"}
    every = choose("gaussian", size, implementation="reference", **options)
    causal = choose("gaussian", size, implementation="reference", frames=8, **options)
    assert causal.matrix_bytes == every.matrix_bytes * 9 / 16  # 1 + ... + 8 of 8 x 8 frames
    chunks = choose("gaussian", size, implementation="chunked", memory_budget=2**30, **options)
    assert chunks.rows == 2**21 // 4000
    assert choose("gaussian", (1, 80, 40, 8, 8), implementation="chunked", frames=8, **options).rows
    few = choose("gaussian", (1, 80, 40, 8, 8), implementation="chunked", frames=8, **options)
    assert few.rows == 10
    heads = choose("gaussian", size, implementation="reference", heads=4, **options)
    assert heads.matrix_bytes == 4 * every.matrix_bytes


@pytest.mark.parametrize(("pairwise", "implementation"), CASES, ids=map(ids, CASES))
def test_a_plan_says_how_frames_are_computed(pairwise, implementation):
    tensors = draw(pairwise, n=4, m=4, d=4, c=4)
    options = {"pairwise": pairwise, "implementation": implementation}
    plan = nl.explain(**tensors, causal_frames=4, **options)
    words = {"linear": "running sums over frames", "sorted": "halves of the frames"}
    assert words.get(plan.implementation, "frame by frame, without a mask") in str(plan)
    assert "frame" not in str(nl.explain(**tensors, **options))


def test_a_causal_dot_product_is_linear_unless_its_summaries_exceed_the_budget():
    options = {"dtype": torch.float32, "device": "cpu"}
    video = choose("dot_product", (1, 17 * 1024, 17 * 1024, 512, 512), frames=17, **options)
    assert video.implementation == "linear"
    assert video.matrix_bytes == 3 * 17 * 512 * 512 * 4
    # a summary of 512 x 512 for every second position
    chosen = choose("dot_product", (1, 2048, 2048, 512, 512), frames=1024, **options)
    assert chosen.implementation == "reference"
    assert "exceed the memory budget" in chosen.why
    budget = {"memory_budget": 3 * 1024 * 512 * 512 * 4}
    chosen = choose("dot_product", (1, 2048, 2048, 512, 512), frames=1024, **budget, **options)
    assert chosen.implementation == "linear"


def test_a_causal_concatenation_is_sorted_where_each_of_its_sums_is_large_enough():
    options = {"dtype": torch.float32, "device": "cpu"}
    frames, keys = 8, 800
    for queries, implementation in ((6664, "reference"), (6672, "sorted")):
        # 36 of the 64 pairs of frames are seen, in 15 sums from 200,000 pairs on
        assert (queries * keys * 36 / 64 >= 15 * 200_000) == (implementation == "sorted")
        size = (1, queries, keys, 4, 4)
        assert choose("concatenation", size, frames=frames, **options).implementation == (
            implementation
        )


WRONG = [
    ({"heads": 3}, ["heads", "at least 1", "d = 4", "got 3"]),
    ({"heads": 4}, ["heads", "d = 4", "c = 6", "got 4"]),
    ({"heads": 0}, ["heads", "at least 1", "got 0"]),
    ({"causal_frames": 4}, ["causal_frames", "N = 6", "M = 3", "got 4"]),
    ({"causal_frames": 2}, ["causal_frames", "N = 6", "M = 3", "got 2"]),
    ({"causal_frames": 0}, ["causal_frames", "at least 1", "got 0"]),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_numbers_are_named_with_what_is_allowed(change, words):
    for function in (nl.non_local, nl.explain):
        with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are the check)
            function(**draw("embedded_gaussian"), **change)
        assert [word for word in words if word not in str(error.value)] == []
