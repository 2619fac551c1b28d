"""Cases of positions that are shared out, which all processes of a group compute together.

Run by itself, `sharing_cases.py RESULTS gate|all|PART_OF_A_NAME`: it forks four processes, runs
each case in groups of two and of four, and writes what failed, by case and size of the group.
"""

import inspect
import itertools
import json
import re
import sys
import tempfile
import traceback
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

import nonlocalnet as nl
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.ops import PAIRWISE, reference

QUERIES = {2: (3, 5), 4: (2, 4, 1, 3)}
KEYS = {2: (4, 2), 4: (1, 3, 2, 4)}
FRAMES = {2: (2, 1), 4: (1, 2, 1, 3)}
CASES = {}


def case(*options):
    """Register a function of (group, ...) under its name, once for each of the options."""

    def register(function):
        for option in options or ((),):
            given = option if isinstance(option, tuple) else (option,)
            name = "-".join([function.__name__, *map(str, given)])
            CASES[name] = lambda group, function=function, given=given: function(group, *given)
        return function

    return register


def randn(*shape, seed=0):
    """The same numbers in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def own(x, sizes, group, dim=1):
    """The own share of a tensor, which is a leaf with a gradient if it is."""
    part = x.detach().split(sizes, dim)[dist.get_rank(group)].clone()
    return part.requires_grad_(x.requires_grad)


def summed(x, group):
    """The sum over the processes, without gradients."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def equal(*pairs, tolerance=1e-9):
    """Compare at the end: a process that raises alone would leave the others waiting."""
    for actual, expected in pairs:  # without torch.testing, whose import takes seconds
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        size = max(expected.abs().max().item(), 0.1) if expected.numel() else 1
        assert torch.isfinite(expected).all()
        worst = (actual - expected).abs().max().item() if expected.numel() else 0
        assert worst <= tolerance * size, f"differ by {worst:.3g} where the largest is {size:.3g}"


def heads_by_reference(theta, phi, g, pairwise, heads, w_f, w_z, **options):
    """The readable reference on the channels of each head by itself."""
    parts = []
    for h in range(heads):
        d, c = theta.shape[2] // heads, g.shape[2] // heads
        on, of = slice(h * d, (h + 1) * d), slice(h * c, (h + 1) * c)
        w = None if w_f is None else torch.cat([half[on] for half in w_f.chunk(2)])
        y = reference.non_local(
            theta[..., on], phi[..., on], g[..., of], pairwise, w_f=w, **options
        )
        parts.append(y)
    y = torch.cat(parts, 2)
    return y if w_z is None else y @ w_z.mT


@case(*itertools.product(PAIRWISE, ["whole", "mask", "heads-mask", "causal", "causal-mask"]))
def operation(group, pairwise, kind):
    """y, the gradients and the gradients of the gradients, of tensors that are used twice."""
    count, batch, d, c = group.size(), 2, 4, 6
    causal = kind.startswith("causal")
    queries, keys = QUERIES[count], KEYS[count]
    if causal:
        queries, keys = ([n * f for f in FRAMES[count]] for n in (2, 3))
    theta, phi, g = (
        randn(batch, sum(sizes), k, seed=i).requires_grad_()
        for i, (sizes, k) in enumerate([(queries, d), (keys, d), (keys, c)])
    )
    w_f = randn(2 * d).requires_grad_() if pairwise == "concatenation" else None
    w_z = randn(5, c).requires_grad_() if "heads" in kind else None
    mask = torch.rand(batch, sum(keys), generator=torch.Generator().manual_seed(3)) > 0.4
    options = {
        "scale": 0.7 if "gaussian" in pairwise else None,
        "heads": 2 if "heads" in kind else 1,
        "w_z": w_z,
    }
    mask[0, : keys[0]] = False  # a process without a real key
    mask = mask if "mask" in kind else None
    leaves = [x for x in (theta, phi, g, w_f, w_z) if x is not None]
    weight = randn(batch, sum(queries), 5 if w_z is not None else c, seed=9)

    def twice(y, weight, leaves, share):
        loss = (y * weight).sum() + (y**2).sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        penalty = sum((grad**2).sum() for grad in first[:3])
        if share is not None:  # of what all processes have, one counts
            penalty = penalty + sum((grad.sin()).sum() for grad in share(first[3:]))
        return first, torch.autograd.grad(penalty, leaves)

    expected = heads_by_reference(
        theta, phi, g, pairwise, w_f=w_f, mask=mask, frames=sum(FRAMES[count]) if causal else None,
        **options,
    )  # fmt: skip
    first, second = twice(expected, weight, leaves, None)

    mine = [own(x, sizes, group) for x, sizes in ((theta, queries), (phi, keys), (g, keys))]
    weights = [x.detach().clone().requires_grad_() for x in (w_f, w_z) if x is not None]
    more = dict(zip([n for n, x in (("w_f", w_f), ("w_z", w_z)) if x is not None], weights,
                    strict=True))  # fmt: skip
    frames = FRAMES[count][dist.get_rank(group)] if causal else None
    real = None if mask is None else own(mask, keys, group)
    if real is not None and real.all():
        real = None  # a process whose keys are all real needs no mask
    y = nl.non_local(
        *mine, pairwise, mask=real, causal_frames=frames, group=group, **options | more
    )
    got_first, got_second = twice(y, own(weight, queries, group), [*mine, *weights], None)
    pairs = [(y, own(expected, queries, group).detach())]
    for got, wanted in ((got_first, first), (got_second, second)):
        for x, full, sizes in zip(got[:3], wanted[:3], (queries, keys, keys), strict=True):
            pairs.append((x.detach(), own(full, sizes, group).detach()))
        for x, full in zip(got[3:], wanted[3:], strict=True):
            pairs.append((summed(x, group), full.detach()))
    equal(*pairs)


@case(*PAIRWISE)
def one_tensor_for_everything_and_twice(group, pairwise):
    """x is theta, phi and g, y is that again, and both are used."""
    sizes = QUERIES[group.size()]
    x = randn(2, sum(sizes), 4).requires_grad_()
    w_f = {"w_f": randn(8)} if pairwise == "concatenation" else {}

    def loss(x, compute):
        y = compute(x, x, x, pairwise, **w_f)
        z = compute(y, x, y, pairwise, **w_f)
        return (y * z).sum() + (z**3).sum()

    (expected,) = torch.autograd.grad(loss(x, reference.non_local), x)
    part = own(x, sizes, group)
    both = loss(part, lambda *a, **k: nl.non_local(*a, group=group, **k))
    (got,) = torch.autograd.grad(both, part)
    equal((got, own(expected, sizes, group)))


@case()
def gradients_needed_by_one_process_alone(group):
    sizes = KEYS[group.size()]
    x = randn(2, sum(sizes), 4)
    for pairwise in PAIRWISE[:3]:
        whole = x.clone().requires_grad_()
        y = reference.non_local(x, whole, x, pairwise)
        (expected,) = torch.autograd.grad((y**2).sum(), whole)
        part = own(x, sizes, group).requires_grad_(dist.get_rank(group) == 0)
        y = nl.non_local(own(x, sizes, group), part, own(x, sizes, group), pairwise, group=group)
        (y**2).sum().backward()
        grad = part.grad if dist.get_rank(group) == 0 else None
        if grad is not None:
            equal((grad, own(expected, sizes, group)))


@case(("bfloat16", 0.01), ("float32", 1e-5))
def other_dtypes(group, dtype, tolerance):
    sizes = KEYS[group.size()]
    x = randn(2, sum(sizes), 4).to(getattr(torch, dtype))
    for pairwise in PAIRWISE[:3]:
        part = own(x, sizes, group)
        y = nl.non_local(part, part, part, pairwise, group=group)
        expected = own(nl.non_local(x, x, x, pairwise), sizes, group)
        equal((y, expected), tolerance=tolerance)


@contextmanager
def counting(sent):
    """Count the bytes of tensors that this process gives to torch's collectives, by name."""
    real = {name: getattr(dist, name) for name in ("all_reduce", "all_to_all_single", "all_gather")}

    def counted(name):
        def call(*args, **kwargs):
            bound = inspect.signature(real[name]).bind(*args, **kwargs).arguments
            x = bound["input"] if name == "all_to_all_single" else bound["tensor"]
            sent[name] = sent.get(name, 0) + x.nbytes
            return real[name](*args, **kwargs)

        return call

    for name in real:
        setattr(dist, name, counted(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


@case(*PAIRWISE)
def bytes_are_those_of_theory(group, pairwise):
    """A dot product sums d x c numbers and a count per sample; the others send their keys once."""
    count, rank = group.size(), dist.get_rank(group)
    batch, d, c, sizes = 2, 4, 6, KEYS[group.size()]
    shapes = [(QUERIES[count], d), (sizes, d), (sizes, c)]
    mine = [own(randn(batch, sum(s), k), s, group).requires_grad_() for s, k in shapes]
    w_f = {"w_f": randn(2 * d)} if pairwise == "concatenation" else {}
    forward, backward = {}, {}
    with counting(forward):
        y = nl.non_local(*mine, pairwise, group=group, **w_f)
    with counting(backward):
        y.sum().backward()
    told = {"all_gather": 4 * 8}
    if pairwise == "dot_product":
        summary = {"all_reduce": 8 * batch * (d * c + 1)}
        assert forward == told | summary, forward
        assert backward == summary, backward
        return
    width = (1 if w_f else d) + c
    assert forward == told | {"all_to_all_single": 8 * batch * width * (count - 1) * sizes[rank]}
    others = sum(sizes) - sizes[rank]
    assert backward == {"all_to_all_single": 8 * batch * width * others}


def raises(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)


@case()
def differences_are_errors_in_all_processes(group):
    rank = dist.get_rank(group)
    x = randn(2, 6, 4)
    form = "gaussian" if rank else "dot_product"
    raises("process 0 has pairwise 'dot_product'", nl.non_local, x, x, x, form, group=group)
    raises("process 1 has scale 0.5", nl.non_local, x, x, x, scale=0.5 if rank else None,
           group=group)  # fmt: skip
    few = x[: 1 + (rank == 0)]
    raises("process 0 has samples 2, and process 1 has samples 1", nl.non_local, few, few, few,
           group=group)  # fmt: skip
    frames = {"causal_frames": 2} if rank else {"causal_frames": 3}
    raises("keys of a frame", nl.non_local, x, x, x, group=group, **frames)
    with torch.set_grad_enabled(rank > 0):
        raises("gradients enabled False", nl.non_local, x, x, x, group=group)
    none = x[:, : 6 * (rank > 0)]
    raises("at least one position; got [0, 6", nl.non_local, x, none, none, group=group)
    network = tiny("c2d_tiny_nl2")
    nl.share_frames(network, group)
    side = 32 if rank else 40
    raises("of the same samples", network, torch.zeros(1, 3, 8, side, side).double())
    network = fill(nl.NonLocalBlock(4, temporal_group=2))
    nl.share_frames(network, group)
    raises("temporal_group=2 must divide the number of frames of each process; got [3, 2", network,
           randn(1, 4, 2 + (rank == 0), 3, 3))  # fmt: skip
    network = tiny("c2d_tiny_nl2")
    nl.share_frames(network, group)
    raises("process 1 would have none after a layer with windows of 2 frames and stride 2",
           network, torch.zeros(1, 3, 1, 32, 32).double())  # fmt: skip


class MeanInTheMiddle(nn.Module):
    """A network whose own code sees all frames."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 2, (3, 1, 1), padding=(1, 0, 0)).double()

    def forward(self, x):
        y = self.conv(x)
        return y - y.mean(2, keepdim=True)


@case()
def an_example_finds_what_the_code_of_a_network_computes_over_frames(group):
    network, clip = fill(MeanInTheMiddle()), randn(1, 3, 9, 4, 4)
    raises("its own code computes frames together", nl.share_frames, network, group, example=clip)
    raises("no frames of this network are shared out", nl.share_frames, network, None)
    network = fill(tiny("i3d_tiny_nl2"))
    assert nl.share_frames(network, group, example=randn(1, 3, 16, 20, 20))
    assert network.training
    assert nl.share_frames(fill(nl.NonLocalBlock(3)), group, example=clip)


@case()
def a_group_without_this_process(group):
    other = dist.new_group([0]) if dist.get_world_size() == group.size() else None
    if other is None:
        return
    x = randn(1, 2, 2)
    if dist.get_rank() == 0:
        assert nl.non_local(x, x, x, group=other).equal(nl.non_local(x, x, x))
    else:
        raises("that this process is a member of", nl.non_local, x, x, x, group=other)
        raises("of other processes", nl.share_frames, nl.NonLocalBlock(4), other)


def tiny(name, **options):
    """A tiny network in float64 with nothing zero, the same in every process."""
    options = {"num_classes": 3, "clip": "8x2", "crop": 32, "dropout": 0.0} | options
    if name == "tsm":
        fields = {"depths": (1, 2), "widths": (8, 8), "conv1_channels": 8, "shift_div": 8}
        net = VideoResNet(num_classes=3, pool2_time=1, non_local={"res3": [0]}, dropout=0.0,
                          **fields)  # fmt: skip
    else:
        net = nl.create_model(name, **options)
    return fill(net)


def fill(net):
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nl.NonLocalBlock):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
        elif isinstance(module, (nn.Conv3d, nn.Linear)):
            module.reset_parameters()
    return net.double()


def layers():
    """Layers of torch alone, with windows of every kind."""
    return fill(
        nn.Sequential(
            nn.Conv3d(3, 4, (5, 3, 3), padding="same", bias=False),
            nn.BatchNorm3d(4),
            nn.Conv3d(4, 4, (3, 3, 3), dilation=(2, 1, 1), padding=(2, 0, 0)),
            nn.ReLU(),
            nn.MaxPool3d((3, 2, 2), (2, 2, 2), (1, 0, 0)),
            nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0), groups=2),
            nn.AvgPool3d((2, 2, 2), (1, 2, 2), ceil_mode=True),
            nl.NonLocalBlock(6, subsample=(2, 2, 2)),
            nn.MaxPool3d((3, 1, 1), (2, 1, 1), ceil_mode=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
    )


NETWORKS = {
    "c2d": lambda: tiny("c2d_tiny_nl2"),
    "c2d-dot-causal": lambda: tiny("c2d_tiny_nl2", pairwise="dot_product", extent="causal"),
    "c2d-time": lambda: tiny("c2d_tiny_nl2", extent="time", subsample=None),
    "c2d-space": lambda: tiny("c2d_tiny_nl2", extent="space"),
    "c2d-concatenation-pooled-in-time": lambda: tiny(
        "c2d_tiny_nl2", pairwise="concatenation", subsample=(2, 2, 2)
    ),
    "c2d-groups": lambda: tiny("c2d_tiny_nl2", temporal_group=1),
    "i3d": lambda: tiny("i3d_tiny_nl2"),
    "i3d-dense": lambda: tiny("i3d_tiny_nl2", clip="32x2", pairwise="gaussian"),
    "i3d3x3x3-dot": lambda: tiny(
        "i3d_tiny_nl2", pairwise="dot_product", kernels_a=None, kernels_b=((3,), (1, 3), (3,))
    ),
    "i3d-frozen": lambda: tiny("i3d_tiny_nl2", norm="frozen", temporal_group=None),
    "tsm": lambda: tiny("tsm"),
    "layers": layers,
}
SHARES = {  # frames of each process
    "even": {2: (8, 8), 4: (4, 4, 4, 4)},
    "uneven": {2: (5, 11), 4: (5, 8, 4, 7)},
}
LONG = {"i3d-dense": 3, "layers": 2}  # more frames, since they have more strides in time


@case(*itertools.product(NETWORKS, SHARES, ["train", "eval"]))
def network(group, name, shares, mode):
    """Scores, maps, gradients, statistics of norms: all as in one process."""
    count, rank = group.size(), dist.get_rank(group)
    whole, part = NETWORKS[name](), NETWORKS[name]()
    sizes = [n * LONG.get(name, 1) for n in SHARES[shares][count]]
    x = randn(2, 3, sum(sizes), 20, 20).requires_grad_()
    target = torch.tensor([0, 2])
    paths = nl.share_frames(part, group)
    pooled = set() if name in ("tsm", "c2d-dot-causal") else {"pool2"}
    assert {"", *pooled} <= {*paths} or {"0", "1", "4", "7", "9"} <= {*paths}
    frames = own(x, sizes, group, dim=2)
    losses = []
    for net, clip in ((whole, x), (part, frames)):
        net.train(mode == "train")
        scores = net(clip)
        loss = nn.functional.cross_entropy(scores, target)
        loss.backward()
        losses.append((scores, loss))
    pairs = list(zip(losses[1], losses[0], strict=True))
    pairs.append((frames.grad / count, own(x.grad, sizes, group, dim=2)))
    for (_, mine), (_, all_) in zip(part.named_parameters(), whole.named_parameters(), strict=True):
        pairs.append((summed(mine.grad, group) / count, all_.grad))
    pairs += zip(part.buffers(), whole.buffers(), strict=True)
    if hasattr(whole, "probabilities") and mode == "eval":
        with torch.no_grad():
            pairs.append((part.probabilities(frames), whole.probabilities(x)))
            mine, full = part.features(frames), whole.features(x)
        lengths = [None] * count
        dist.all_gather_object(lengths, mine.shape[2], group=group)
        assert sum(lengths) == full.shape[2]
        pairs.append((mine, full.split(lengths, dim=2)[rank]))
    nl.share_frames(part, None)
    assert [type(m) for m in part.modules()] == [type(m) for m in whole.modules()]
    if mode == "eval":
        pairs.append((part(x), whole(x)))
    equal(*pairs)


@case()
def distributed_data_parallel_gives_the_gradients_of_one_process(group):
    count = group.size()
    whole, part = tiny("i3d_tiny_nl2"), tiny("i3d_tiny_nl2")
    nl.share_frames(part, group)
    parallel = nn.parallel.DistributedDataParallel(part, process_group=group)
    clip, target = randn(2, 3, 8, 20, 20), torch.tensor([0, 2])
    for net, x in ((whole, clip), (parallel, clip.tensor_split(count, 2)[dist.get_rank(group)])):
        nn.functional.cross_entropy(net(x), target).backward()
    both = zip(part.parameters(), whole.parameters(), strict=True)
    equal(*((mine.grad, all_.grad) for mine, all_ in both))


@case()
def recomputed_activations(group):
    """Gradients are the same where blocks keep only their inputs."""
    from nonlocalnet.training.parallel import recompute_blocks

    nets = [tiny("i3d_tiny_nl2", temporal_group=None) for _ in range(2)]
    clip = randn(2, 3, 8, 20, 20).tensor_split(group.size(), 2)[dist.get_rank(group)]
    for net in nets:
        nl.share_frames(net, group)
    recompute_blocks(nets[1])
    for net in nets:
        net(clip).square().sum().backward()
    both = zip(*(net.parameters() for net in nets), strict=True)
    equal(*((mine.grad, other.grad) for mine, other in both))
    norms = [[m.running_var for m in net.modules() if hasattr(m, "running_var")] for net in nets]
    equal(*zip(*norms, strict=True))


@case()
def processes_drop_the_same_features(group):
    count, rank = group.size(), dist.get_rank(group)
    clip = randn(2, 3, 8, 20, 20)
    whole, part = (tiny("c2d_tiny_nl2", dropout=0.5) for _ in range(2))
    nl.share_frames(part, group)
    torch.manual_seed(7)
    expected = whole(clip)
    torch.manual_seed(7 + rank)
    equal((part(clip.tensor_split(count, 2)[rank]), expected))


@case()
def a_block_with_a_mask(group):
    """The mask of one process alone, keys pooled in time over the cuts, and channels last."""
    count, rank = group.size(), dist.get_rank(group)
    sizes = SHARES["uneven"][count]
    for pairwise, last in itertools.product(PAIRWISE, (False, True)):
        block = fill(nl.NonLocalBlock(4, pairwise=pairwise, subsample=(2, 2, 2), pre_norm="rms"))
        x = randn(2, 4, sum(sizes), 4, 4)
        x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
        mask = torch.ones(2, sum(sizes), 4, 4, dtype=torch.bool)
        mask[0, : sizes[0], 2:] = False
        expected = block.eval()(x, mask)
        nl.share_frames(block, group)
        real = own(mask, sizes, group) if rank == 0 else None
        z = block(own(x, sizes, group, dim=2), real)
        equal((z, own(expected, sizes, group, dim=2)))
        raises("needs the frames of all processes", block.affinity, x)


MANY = (
    "operation",
    "network",
    "distributed_data_parallel",
    "recomputed",
)  # of which the gate has a few
GATE = {
    "operation-gaussian-whole",
    *(f"operation-{f}-{k}-mask" for f in PAIRWISE[1:] for k in ("heads", "causal")),
    "network-i3d-uneven-train",
    "network-c2d-concatenation-pooled-in-time-uneven-eval",
    "network-c2d-dot-causal-uneven-train",
    "network-tsm-uneven-train",
    "network-layers-uneven-eval",
}


def chosen(which):
    """Names of cases: of the gate, all, or those with a part of a name."""
    if which == "gate":
        return [name for name in CASES if not name.startswith(MANY) or name in GATE]
    return [name for name in CASES if which in ("all", name) or which in name]


def run(rank, store, results):
    torch.set_num_threads(1)
    # a process that fails must not keep the others waiting for long
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=4,
                            timeout=timedelta(seconds=30))  # fmt: skip
    twos = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    found = {}
    for name, function in CASES.items():
        for group in (twos[rank // 2], dist.group.WORLD):
            try:
                function(group)
                error = ""
            except BaseException:
                error = f"process {rank}: {traceback.format_exc()}"
            found[f"{name}-{group.size()}"] = error
    every = [None] * 4
    dist.all_gather_object(every, found)
    if rank == 0:
        joined = {key: "\n".join(filter(None, (one[key] for one in every))) for key in found}
        Path(results).write_text(json.dumps(joined))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    CASES = {name: CASES[name] for name in chosen(sys.argv[2])}
    with tempfile.TemporaryDirectory() as folder:
        # forked, so that torch is imported once
        multiprocessing.start_processes(
            run, (f"{folder}/store", sys.argv[1]), nprocs=4, start_method="fork"
        )
