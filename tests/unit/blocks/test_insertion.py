"""Blocks in networks that others wrote: torchvision's, timm's, plain and odd ones."""

import copy
import io
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.hooks import RemovableHandle

import nonlocalnet as nl

PARTS = {f"{part}.{kind}" for part in ("theta", "phi", "g", "w_z") for kind in ("weight", "bias")}
PARTS |= {f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
PARTS |= {"norm.num_batches_tracked"}


def images(*size, channels=3, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *size, generator=rng).to(dtype)


def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=5)


def video_resnet() -> nn.Module:
    return torchvision.models.video.mc3_18(num_classes=5)


def timm_resnet() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("resnet10t", num_classes=5)


def sequence() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Conv1d(8, 6, 3, padding=1),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


class Stages(nn.Module):
    """Small, and with everything that a network may have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.branch = nn.Sequential(nn.Conv2d(8, 6, 1), nn.Tanh())
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x).relu()
        return self.fc(self.branch(x).mean((2, 3)))


NETWORKS = {
    "images": (resnet, ["layer2.1", "layer3"], images(32, 32)),
    "video": (video_resnet, ["layer2.1", "layer3"], images(2, 16, 16)),
    "timm": (timm_resnet, ["layer2.0", "layer3"], images(32, 32)),
    "sequences": (sequence, ["0", "1"], images(16, channels=4)),
    "small": (Stages, ["stages.*", "branch"], images(6, 7)),
}


@pytest.fixture(params=NETWORKS)
def network_after_x(request):
    make, after, x = NETWORKS[request.param]
    torch.manual_seed(0)
    return make(), after, x


def wake(network: nn.Module, seed=1) -> None:
    """Make every inserted block do something."""
    rng = torch.Generator().manual_seed(seed)
    for block in network.modules():
        if isinstance(block, nl.NonLocalBlock):
            for parameter in block.parameters():
                fresh = torch.randn(parameter.shape, generator=rng).to(parameter)
                parameter.data.copy_(fresh * 0.3)


def small(after=("stages.*", "branch"), **options) -> nn.Module:
    """`Stages` with awake blocks, for evaluation."""
    torch.manual_seed(0)
    network = Stages()
    nl.add_non_local(network, after, verbose=False, **options)
    wake(network)
    return network.eval()


def add(network, after, **options):
    return nl.add_non_local(network, after, verbose=False, **options)


def picture(network: nn.Module):
    """All that must stay when nothing may change."""
    hooks = {n: dict(m._forward_hooks) for n, m in network.named_modules()}
    flags = {n: m.training for n, m in network.named_modules()}
    return repr(network), hooks, flags, {k: v.clone() for k, v in network.state_dict().items()}


def unchanged(network: nn.Module, before) -> None:
    now = picture(network)
    assert now[:3] == before[:3]
    assert now[3].keys() == before[3].keys()
    assert all(torch.equal(now[3][key], value) for key, value in before[3].items())


# What comes out


@pytest.mark.parametrize("train", [False, True])
def test_the_network_gives_the_same_until_the_blocks_are_trained(network_after_x, train):
    network, after, x = network_after_x
    plain = copy.deepcopy(network).train(train)
    add(network, after, example=x)
    network.train(train)
    with torch.no_grad():
        expected = plain(x)
        assert expected.std() > 0
        assert torch.equal(network(x), expected)
        wake(network)
        assert not torch.equal(network(x), expected)


def test_blocks_run_where_they_would_run_if_put_there_by_hand(network_after_x):
    network, after, x = network_after_x
    by_hand = copy.deepcopy(network)
    places = add(network, after, example=x)
    wake(network)
    for place in places:
        parent, _, name = place.path.rpartition(".")
        module = by_hand.get_submodule(place.path)
        block = network.get_submodule(f"{place.path}.non_local")
        setattr(by_hand.get_submodule(parent), name, nn.Sequential(module, copy.deepcopy(block)))
    assert torch.equal(network.eval()(x), by_hand.eval()(x))


def test_gradients_reach_every_block(network_after_x):
    network, after, x = network_after_x
    add(network, after, example=x)
    network(x).square().sum().backward()
    gates = [m.norm.weight.grad for m in network.modules() if isinstance(m, nl.NonLocalBlock)]
    assert gates
    assert all(gate.abs().max() > 0 for gate in gates)


# Names of the weights


def test_names_of_the_networks_weights_stay(network_after_x):
    network, after, x = network_after_x
    old = copy.deepcopy(network.state_dict())
    places = add(network, after, example=x)
    new = {f"{place.path}.non_local.{part}" for place in places for part in PARTS}
    assert network.state_dict().keys() - old.keys() == new
    assert old.keys() - network.state_dict().keys() == set()
    loaded = network.load_state_dict(old, strict=False)
    # torch fills in the counters of batch norms that an old checkpoint lacks, and says nothing
    assert set(loaded.missing_keys) == {name for name in new if not name.endswith("_tracked")}
    assert loaded.unexpected_keys == []


def test_removing_brings_back_the_network_as_it_was(network_after_x):
    network, after, x = network_after_x
    before = picture(network)
    expected = copy.deepcopy(network).eval()(x)
    places = add(network, after, example=x)
    wake(network)
    assert nl.remove_non_local(network) == tuple(place.path for place in places)
    unchanged(network, before)
    assert torch.equal(network.eval()(x), expected)
    assert nl.remove_non_local(network) == ()


# Which modules


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("layer2.1", ["layer2.1"]),
        ("layer3.*", ["layer3.0", "layer3.1"]),
        ("layer[34].1", ["layer3.1", "layer4.1"]),
        ("layer?", ["layer1", "layer2", "layer3", "layer4"]),
        (["layer3.1", "layer2.*", "layer*.1"], "layer1.1 layer2.0 layer2.1 layer3.1 layer4.1"),
        (("layer*.0.bn2", "conv1"), "conv1 layer1.0.bn2 layer2.0.bn2 layer3.0.bn2 layer4.0.bn2"),
    ],
)
def test_patterns_name_modules_part_by_part(after, expected):
    network = resnet()
    places = add(network, after, example=images(32, 32))
    expected = expected.split() if isinstance(expected, str) else expected
    assert [place.path for place in places] == expected
    assert {n.removesuffix(".non_local") for n, m in network.named_modules()
            if isinstance(m, nl.NonLocalBlock)} == set(expected)  # fmt: skip


def test_what_is_found_fits_the_place():
    network = Stages().double()
    network.branch.eval()
    first, second = add(network, ["stem", "branch"], example=images(9, 5, dtype=torch.float64))
    assert (first.path, first.shape, first.inner_channels) == ("stem", (8, 9, 5), 4)
    assert (second.path, second.shape, second.inner_channels) == ("branch", (6, 9, 5), 3)
    block = network.branch.non_local
    assert (block.channels, block.dims, block.g.weight.dtype) == (6, 2, torch.float64)
    assert network.stem.non_local.training
    assert not block.training


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_default_example_fits_the_first_convolution(dims, place):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    network = nn.Sequential(conv(5, 6, 1), nn.ReLU())
    (found,) = add(network, str(place))
    assert found.shape == {1: (6, 64), 2: (6, 64, 64), 3: (6, 8, 64, 64)}[dims]
    assert network[place].non_local.dims == dims


def test_a_network_without_storage_takes_blocks_without_storage():
    with torch.device("meta"):
        network = Stages()
    add(network, "stem")
    assert network.stem.non_local.g.weight.is_meta


def test_an_example_of_several_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Bilinear(3, 4, 8)

        def forward(self, x, y, flip):
            return self.mix(x, y).movedim(-1, 1) if flip else x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, *arguments):
            return self.two(*arguments)

    (place,) = add(Net(), "two", example=(torch.ones(1, 9, 3), torch.ones(1, 9, 4), True))
    assert place.shape == (8, 9)


def test_options_go_to_the_block():
    network = Stages()
    add(network, "stem", pairwise="dot_product", subsample=2, inner_channels=3, norm=None)
    block = network.stem.non_local
    assert (block.pairwise, block.subsample, block.inner_channels) == ("dot_product", (2, 2), 3)
    assert block.norm is None


def test_a_module_of_two_names_gets_one_block_that_runs_at_both():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), shared := nn.Conv2d(8, 8, 1), nn.ReLU(), shared)
    x, runs = images(5, 5), []
    plain = copy.deepcopy(network)
    assert [place.path for place in add(network, ["3", "1", "*"])] == ["0", "1", "2"]
    nl.remove_non_local(network)
    assert [place.path for place in add(network, "3")] == ["3"]
    shared.non_local.register_forward_hook(lambda *_: runs.append(1))
    assert torch.equal(network(x), plain(x))
    assert len(runs) == 2
    assert network.state_dict().keys() >= {"1.non_local.g.weight", "3.non_local.g.weight"}
    assert nl.remove_non_local(network) == ("1",)
    assert network.state_dict().keys() == plain.state_dict().keys()


def test_more_blocks_in_a_second_call():
    network = Stages()
    add(network, ["branch", "stem"])
    assert [place.path for place in add(network, "branch.*")] == ["branch.0", "branch.1"]
    with pytest.raises(ValueError, match=r"must be one of .*; got 'stem.non_local'"):
        add(network, "stem.non_local")
    assert nl.remove_non_local(network) == ("stem", "branch", "branch.0", "branch.1")


# Refusals leave the network as it was


class Odd(nn.Module):
    """Modules that cannot take a block, behind one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Conv2d(4, 4, 1)
        self.listed = nn.ModuleList([nn.Conv2d(4, 4, 1)])
        self.many = nn.LSTM(4, 4)
        self.flat = nn.Flatten()
        self.whole = Call(lambda x: x.long())
        self.pool = nn.AvgPool2d(2)
        self.busy = nn.Identity()
        self.busy.non_local = "a word"
        self.taken = nn.Identity()
        self.walked = Walked(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.looped = Looped()

    def forward(self, x):
        x = self.norm(self.good(x))
        x = self.listed[0](x)
        self.many(x[:, :, 0, 0])
        self.flat(x)
        self.whole(x)
        self.pool(x), self.pool(x[:, :2])
        return self.looped(self.walked(self.taken(self.busy(x))))


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Walked(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


REFUSALS = {
    "unused": r"after 'unused': it did not run in the example$",
    "listed": r"after 'listed': it did not run.*; name a module within, such as 'listed.0'",
    "many": r"after 'many': it gives a tuple, not a tensor: name a module that gives one$",
    "flat": r"after 'flat': it must give \(B, C, T\).*; it gives \(1, 16384\)",
    "whole": r"after 'whole': it must give floating numbers; it gives torch.int64",
    "pool": r"after 'pool': it runs several times, and gives \(1, 4, 32, 32\) and \(1, 2, 32, 32\)",
    "busy": r"after 'busy': it has something else named 'non_local'",
    "taken": r"after 'taken': one stands there; nl.remove_non_local\(network\) takes",
    "walked": r"after 'walked': its forward runs all its children, and would run the",
    "looped": r"after 'looped': its forward runs all its children",
    "god": r"after must be one of 'good', .*; got 'god'; did you mean 'good'\?",
    "listed.0.*": r"got 'listed.0.\*'; did you mean 'listed.0'\?",
    "": r"got ''$",
}


@pytest.mark.parametrize("after", REFUSALS)
def test_a_place_that_cannot_take_a_block(after):
    network = Odd()
    add(network, "taken")
    before = picture(network)
    for others in ([after], ["good", after]):
        with pytest.raises(ValueError, match=REFUSALS[after]) as refusal:
            add(network, others)
        assert len(str(refusal.value)) < 300
        unchanged(network, before)


def test_the_nearest_of_many_paths():
    with pytest.raises(ValueError, match=r"one of 67 names, such as 'layer2.1', .*'layer2.1'\?$"):
        add(resnet(), "layer2.7")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dims": 2}, "dims is found from each module's output; got dims=2: leave it out"),
        ({"channels": 8}, "channels is found .* got channels=8"),
        ({"pairwise": "gauss"}, "pairwise must be one of .*; got 'gauss'"),
        ({"subsample": (2, 2, 2)}, "subsample must be one positive factor, or 2 of them"),
        ({"example": images(5, 5, channels=4)}, r"error on \(2, 4, 5, 5\): pass example="),
        ({"example": (images(5, 5), 1)}, r"error on \(2, 3, 5, 5\), 1: pass example="),
    ],
)
def test_options_and_examples_that_do_not_fit(options, said):
    network = Stages()
    before = picture(network)
    with pytest.raises(ValueError, match=said):
        add(network, ["stem", "branch"], **options)
    with pytest.raises(TypeError, match="sub_sample"):
        add(network, ["stem", "branch"], sub_sample=2)
    unchanged(network, before)


def test_no_place_at_all():
    with pytest.raises(ValueError, match="after must name at least one module; got none"):
        add(Stages(), [])


def test_without_a_convolution_an_example_is_needed():
    network = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
    with pytest.raises(ValueError, match=r"no convolution .*: pass example=, a tensor or a tuple"):
        add(network, "0")
    assert add(network, "0", example=torch.ones(1, 4, 9))[0].shape == (4, 9)


def test_a_failing_run_says_its_cause():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(7, 7))
    with pytest.raises(ValueError, match=r"on \(1, 3, 64, 64\): pass example=") as refusal:
        add(network, "0")
    assert isinstance(refusal.value.__cause__, RuntimeError)


def compiled_in_place() -> nn.Module:
    network = Stages()
    network.stem.compile(backend="eager")
    return network


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda: torch.compile(Stages(), backend="eager"), "got a compiled one"),
        (compiled_in_place, "got a compiled one"),
        (lambda: nn.DataParallel(Stages()), "got DataParallel"),
    ],
)
def test_a_wrapped_network_is_not_one_to_change(wrap, said):
    with pytest.raises(ValueError, match=rf"network must not be compiled or .*{said}: add the"):
        add(wrap(), "stem")


# Traces that the one run must not leave


class Restless(nn.Module):
    """Counts, forgets and rolls dice even in evaluation, and has an eval() with consequences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.evals, self.modes = 0, set()

    def forward(self, x):
        self.modes.add((self.training, torch.is_grad_enabled()))
        self.runs += 1
        self.last = torch.rand(3)
        return self.conv(x) + torch.rand(())

    def train(self, mode=True):
        self.evals = getattr(self, "evals", 0) + 1
        return super().train(mode)


@pytest.mark.parametrize("after", ["1", "2"])
def test_the_run_leaves_no_trace(after):
    network = nn.Sequential(Restless(), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    network[1].eval()
    last, evals = network[0].last, network[0].evals
    before, seed = picture(network), torch.get_rng_state()
    with pytest.raises(ValueError, match="after '3'"):
        add(network, [after, "3"])
    unchanged(network, before)
    assert torch.equal(torch.get_rng_state(), seed)

    torch.set_rng_state(seed)
    nl.NonLocalBlock(4, 2)
    drawn = torch.get_rng_state()
    torch.set_rng_state(seed)
    add(network, after)
    assert torch.equal(torch.get_rng_state(), drawn)  # by the block's weights alone
    nl.remove_non_local(network)
    unchanged(network, before)
    assert network[0].last is last
    assert network[0].evals == evals
    assert network[0].modes == {(False, False)}
    assert all(parameter.grad is None for parameter in network.parameters())


# What others do with a network


def test_a_copy_has_blocks_of_its_own():
    network, x = small(), images(6, 7)
    expected = network(x)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(x), expected)
    wake(twin, seed=2)
    assert not torch.equal(twin(x), expected)
    assert nl.remove_non_local(twin) == ("stages.0", "stages.1", "branch")
    twin(x)
    assert not any(m._forward_hooks for m in twin.modules())
    assert torch.equal(network(x), expected)


def test_a_saved_network_keeps_its_blocks_whatever_hooks_come(monkeypatch):
    network, x, file = small(), images(6, 7), io.BytesIO()
    expected = network(x)
    torch.save(network, file)
    file.seek(0)
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a fresh process
    loaded, seen = torch.load(file, weights_only=False), []
    for _ in range(100):
        loaded.stages[0].register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(loaded(x), expected)
    assert len(seen) == 100
    assert nl.remove_non_local(pickle.loads(pickle.dumps(small()))) == (
        "stages.0", "stages.1", "branch",
    )  # fmt: skip


def test_a_replica_runs_its_own_block():
    # what DataParallel makes per device: a shallow copy of each module, children set afterwards
    network, x = small("stem"), images(6, 7)
    stem, block = network.stem, copy.deepcopy(network.stem.non_local)
    wake(block, seed=2)
    replica = stem._replicate_for_data_parallel()
    replica._parameters.update(stem._parameters)
    replica.weight, replica.bias = stem.weight, stem.bias
    replica.non_local = block
    assert torch.equal(
        replica(x), block(torch.nn.functional.conv2d(x, stem.weight, stem.bias, 1, 1))
    )
    assert not torch.equal(replica(x), stem(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    network, x = Stages().cuda(), images(6, 7).cuda()
    plain = copy.deepcopy(network)
    seed = torch.cuda.get_rng_state()
    add(network, ["stages.*", "branch"])
    assert torch.equal(torch.cuda.get_rng_state(), seed)
    assert network.branch.non_local.g.weight.is_cuda
    assert torch.equal(network(x), plain(x))


def test_compiled_whole_and_trained():
    network, x = small(), images(6, 7)
    expected = network(x)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    z = compiled(x)
    torch.testing.assert_close(z, expected)
    z.square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_exported():
    network, x = small(), images(6, 7)
    exported = torch.export.export(network, (x,))
    assert "stages.0.non_local.g.weight" in exported.state_dict
    torch.testing.assert_close(exported.module()(x), network(x))


def test_feature_extraction_takes_blocks_whole():
    from torchvision.models.feature_extraction import create_feature_extractor

    network, x = resnet(), images(32, 32)
    add(network, ["layer2.1", "layer3"], example=x)
    wake(network)
    network.eval()
    extractor = create_feature_extractor(
        network,
        {"layer2.1.non_local": "inner", "layer3": "stage", "fc": "logits"},
        tracer_kwargs={"leaf_modules": [nl.NonLocalBlock]},
    )
    found, seen = extractor(x), {}
    for name in ("layer2", "layer3"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
    assert torch.equal(found["logits"], network(x))
    assert torch.equal(found["inner"], seen["layer2"])  # it is the last of layer2
    assert torch.equal(found["stage"], seen["layer3"])


def test_a_sequential_has_one_child_more():
    network = sequence()
    old = list(network[0])
    add(network, ["0", "1"])
    assert len(network) == 5
    assert len(network[0]) == 4
    assert list(network[0][:3]) == list(network[0])[:3] == old
    assert isinstance(network[0][-1], nl.NonLocalBlock)
    assert [name for name, _ in network[0].named_children()] == ["0", "1", "2", "non_local"]
    nl.remove_non_local(network)
    assert list(network[0]) == old


def test_a_block_prints_as_a_block():
    network = Stages()
    add(network, "stem")
    assert repr(network.stem.non_local).startswith("NonLocalBlock(\n  8, dims=2,")


# Blocks that others put there


def test_blocks_put_there_otherwise_stay():
    network = nl.create_model("c2d_tiny_nl2", num_classes=5)
    network.res2.append(nl.NonLocalBlock(network.res2.block0.conv_c.out_channels))
    network.conv1.add_module("non_local", nl.NonLocalBlock(4))
    before = picture(network)
    assert nl.remove_non_local(network) == ()
    unchanged(network, before)
    (place,) = add(network, "res3.block0")
    assert nl.remove_non_local(network) == (place.path,)
    unchanged(network, before)


def test_our_own_networks_take_blocks_after_their_blocks():
    network, x = nl.create_model("c2d_tiny", num_classes=5).eval(), images(4, 32, 32)
    expected = network(x)
    add(network, ["res?.block0", "res3"], example=x, subsample=(1, 2, 2))
    assert torch.equal(network(x), expected)
    nn.init.normal_(network.res3.non_local.norm.weight)
    assert not torch.equal(network(x), expected)


# The table


def test_the_table(capsys):
    network = nn.Sequential(nn.Sequential(nn.Conv3d(1, 100, 1)), nn.ReLU(), nn.Conv3d(100, 6, 1))
    places = nl.add_non_local(network, ["0", "2"], norm=None, example=torch.ones(2, 1, 3, 5, 10))
    # theta, phi and g: C d + d each; w_z: d C + C
    assert str(places).splitlines() == [
        "after  output            layout          dims  channels  inner  parameters",
        "0      100 x 3 x 5 x 10  channels_first     3       100     50      20,250",
        "2      6 x 3 x 5 x 10    channels_first     3         6      3          87",
    ]
    assert capsys.readouterr().out == f"{places}\n"
    nl.remove_non_local(network)
    add(network, "0")
    assert capsys.readouterr().out == ""
