"""What differs between kinds of networks is found through the table, for other people's too."""

import dataclasses
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

import nonlocalnet as nl
from nonlocalnet.networks import register, registry
from nonlocalnet.networks.families import VIDEO, Row
from nonlocalnet.networks.registry import family_of


@pytest.fixture
def table(monkeypatch):
    """A table of the test's own."""
    rows = dict(registry.table())
    monkeypatch.setattr(registry, "table", lambda: rows)
    return rows


def test_a_network_has_the_family_of_its_name():
    for name in ("c2d_tiny", "mask_rcnn_tiny_fpn", "keypoint_rcnn_tiny_fpn_nl5"):
        with torch.device("meta"):
            network = nl.create_model(name)
        assert family_of(network) is family_of(name)
    with pytest.raises(ValueError, match="did you mean 'c2d_tiny'"):
        family_of("c2d_tinny")


@pytest.mark.parametrize("config", [None, "a configuration of another library", {"name": []}])
def test_networks_built_elsewhere_are_told_by_what_they_have(config):
    with torch.device("meta"):
        detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    other = nn.Sequential(nn.Conv3d(3, 4, 1))
    for network in (detector, other):
        if config is not None:
            network.config = config
    assert family_of(detector).takes == "images"
    assert family_of(other) is VIDEO


class Mean(nn.Module):
    """Arguments of its own, and none of `VideoResNet`'s."""

    def __init__(self, colors: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(colors, num_classes)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3, 4)))


def test_a_family_of_ones_own_builds_tests_and_counts(table, monkeypatch):
    module = ModuleType("my_networks")

    def build(name, fields, *, num_classes=7, clip="4x1", crop=16):
        network = Mean(fields["colors"], num_classes)
        network.config = {"name": name, "num_classes": num_classes, "clip": clip, "crop": crop}
        return network

    module.build = build
    monkeypatch.setitem(sys.modules, "my_networks", module)
    mine = dataclasses.replace(
        VIDEO, name="mine", places={**VIDEO.places, "build": "my_networks:build"}
    )
    register("mean", {"colors": 3}, mine)
    network = nl.create_model("mean", clip="2x1")
    assert network(torch.rand(2, 3, 2, 8, 8)).shape == (2, 7)
    assert network.config == {"name": "mean", "num_classes": 7, "clip": "2x1", "crop": 16}
    assert family_of(network) is mine
    assert table["mean"] == Row(mine, {"colors": 3})

    from nonlocalnet.evaluation.cost import cost

    assert cost("mean").parameters == cost("mean").multiply_adds == 3 * 7
    # rows of other arguments are not taken for a VideoResNet's
    from nonlocalnet.networks.arguments import describe, resolve

    assert describe({"depths": (3, 4, 6, 3)}, clip="8x8", crop=224)["name"] == "c2d_r50"
    with pytest.raises(ValueError, match="mean is no VideoResNet"):
        resolve("mean")


def test_a_job_that_a_family_does_not_do_is_named():
    with pytest.raises(ValueError, match="video networks have no 'pain'; they have"):
        VIDEO.load("pain")


def test_every_place_of_every_family_exists(table):
    families = {row.family.name: row.family for row in table.values()}
    assert len(families) >= 2
    for family in families.values():
        for job in family.places:
            assert family.load(job) is not None
