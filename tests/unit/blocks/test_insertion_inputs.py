"""Examples of any form: by name, in dictionaries and lists, of any sizes, and left as they were."""

import collections
import collections.abc
import copy

import pytest
import torch
from torch import nn
from torchvision.models import detection

import nonlocalnet as nl

Pair = collections.namedtuple("Pair", "image words")


class Batch(collections.abc.MutableMapping):
    """A dictionary of one's own, whose copies share what it holds."""

    def __init__(self, **items) -> None:
        self.items_by_name = items

    def __getitem__(self, name):
        return self.items_by_name[name]

    def __setitem__(self, name, value):
        self.items_by_name[name] = value

    def __delitem__(self, name):
        del self.items_by_name[name]

    def __iter__(self):
        return iter(self.items_by_name)

    def __len__(self):
        return len(self.items_by_name)

    def __repr__(self):
        return repr(self.items_by_name)


class Last(nn.Module):
    """(B, 3, H, W) -> (B, H, W, 8), which only inputs of other sizes tell from channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 8)

    def forward(self, x):
        return self.fc(x.movedim(1, -1))


class Net(nn.Module):
    """`place` on an image, which everything else must fit."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.place, self.words, self.how = Last(), nn.Embedding(5, 8), forward

    def forward(self, *args, **kwargs):
        return self.how(self, *args, **kwargs)


def by_name(net, *, image, mask=None):
    return net.place(image) * mask.unsqueeze(-1)


def dictionary(net, batch):
    return net.place(batch.pop("image")) * batch["mask"].unsqueeze(-1)


def images_in_a_list(net, images):
    return torch.cat([net.place(image.unsqueeze(0)).mean((1, 2)) for image in images])


def levels(net, features):
    return net.place(features[0]) + net.place(features[1]).repeat(1, 2, 2, 1)


def nested(net, data, *, flip):
    assert flip == "no"
    seen = net.place(data["pairs"][0].image) * data["more"]["mask"].unsqueeze(-1)
    return seen.mean((1, 2)) + net.words(data["pairs"][0].words).mean(1)


def in_place(net, image, ids):
    ids.clamp_(max=4)
    return net.place(image.add_(1)).mean((1, 2)) + net.words(ids).mean(1)


def pairs_of_words(net, ids, see):
    x = net.words(ids)
    x = net.place((see @ x)[..., :3].unsqueeze(2).expand(-1, -1, ids.shape[1], -1).movedim(-1, 1))
    return x.mean((1, 2))


def image(b=1, side=6):
    return torch.rand(b, 3, side, side + 2, generator=torch.Generator().manual_seed(0))


def mask(b=1, side=6):
    return torch.ones(b, side, side + 2)


EXAMPLES = {
    "names": (by_name, {"image": image(), "mask": mask()}),
    "names of another class": (
        by_name,
        collections.UserDict(image=image(2), mask=mask(2)),
    ),
    "names of one's own class": (by_name, Batch(image=image(), mask=mask())),
    "a dictionary of one's own class": (dictionary, (Batch(image=image(), mask=mask()),)),
    "names in order": (by_name, collections.OrderedDict(image=image(), mask=mask())),
    "a dictionary as the only argument": (dictionary, ({"image": image(), "mask": mask()},)),
    "a list as the only argument": (images_in_a_list, [image()[0], image()[0]]),
    "a list in a tuple": (images_in_a_list, ([image()[0], image()[0]],)),
    "a list of maps": (levels, [image(side=6).repeat(1, 1, 2, 2), image(side=6)]),
    "nested": (
        nested,
        {
            "data": {
                "pairs": (Pair(image(), torch.arange(5).view(1, 5)), None),
                "more": {"mask": mask(), "names": ["cat"]},
            },
            "flip": "no",
        },
    ),
    "changed in place": (in_place, (image(2), torch.tensor([[7, 1], [2, 3]]))),
    "words and who sees whom": (pairs_of_words, (torch.arange(4).view(1, 4), torch.ones(4, 4))),
}


@pytest.mark.parametrize("case", EXAMPLES)
def test_examples_of_any_form_give_the_layout_and_stay_as_they_were(case):
    how, example = EXAMPLES[case]
    before, network = copy.deepcopy(example), Net(how)
    names = network.state_dict().keys()
    (place,) = nl.add_non_local(network, "place", example=example, verbose=False)
    assert (place.layout, place.shape[-1]) == ("channels_last", 8)
    assert repr(example) == repr(before)  # all of its values, which are few
    nl.remove_non_local(network)
    assert network.state_dict().keys() == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_detector_takes_a_list_of_images():
    network = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=32, max_size=64
    )
    images = [torch.rand(3, 32, 32), torch.rand(3, 40, 32)]
    after = ["backbone.body.6", "backbone.fpn.layer_blocks.0"]
    places = nl.add_non_local(network, after, example=images, verbose=False)
    assert [(p.layout, p.channels) for p in places] == [
        ("channels_first", 40), ("channels_first", 256),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "example", "said"),
    [
        (dictionary, {"image": image(), "mask": mask()},
         r"error on image=\(1, 3, 6, 8\), mask=\(1, 6, 8\): pass example=, a tensor or a tuple or "
         r"dictionary .*; a dictionary that is one argument goes into a tuple, \(\{\.\.\.\},\)$"),
        (by_name, (image(), mask()), r"error on \(1, 3, 6, 8\), \(1, 6, 8\): pass example="),
        (images_in_a_list, [image(), 1], r"error on \[\(1, 3, 6, 8\), 1\]: pass example="),
    ],
)  # fmt: skip
def test_an_example_that_the_network_does_not_take(how, example, said):
    network = Net(how)
    with pytest.raises(ValueError, match=said):
        nl.add_non_local(network, "place", example=example)
    assert not any(m._forward_hooks for m in network.modules())


class Counts(nn.Module):
    """Rolls dice and keeps statistics even in evaluation, at every size that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2, momentum=0.5)
        self.register_buffer("sum", torch.zeros(2))
        self.sizes = set()

    def forward(self, x):
        self.sizes.add(tuple(x.shape[2:]))
        x = self.conv(x) + torch.rand(())
        self.sum += x.sum((0, 2, 3))
        if x.shape[2] > 9:
            raise RuntimeError("too large")
        return self.norm(x)


def test_runs_at_other_sizes_leave_no_trace():
    network = nn.Sequential(Counts(), nn.AdaptiveAvgPool2d(2), nn.Identity())
    before, seed = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError, match="is channels cannot be seen"):
        nl.add_non_local(network, ["0", "2"], example=image(4))
    assert {(6, 8), (3, 8), (6, 4), (12, 8)} <= network[0].sizes
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), seed)
    assert all(module.training for module in network.modules())
    assert not any(m._forward_hooks for m in network.modules())
