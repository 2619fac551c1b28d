"""The views of a test are those of the weights, until options say others."""

from pathlib import Path

import pytest
import torch

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import Views
from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.evaluation.multiview import Forward
from nonlocalnet.evaluation.views import make_test_set

RECORDS = [VideoRecord(Path("x.mp4"), (0,), "x.mp4")]
TEN = Views(num_crops=10, crop=224, rule="mmaction2")


@pytest.mark.parametrize(
    ("clip", "views", "options", "expected"),
    [
        ("8x8", Views(), {}, (10, 3, 256, 256, "official")),
        ("8seg", Views(), {}, (1, 3, 256, 256, "official")),
        ("8seg", TEN, {}, (1, 10, 224, 256, "mmaction2")),
        ("8seg", TEN, {"num_clips": 2, "num_crops": 1}, (2, 1, 224, 256, "mmaction2")),
        ("8seg", TEN, {"side": 128}, (1, 10, 128, 128, "mmaction2")),
        ("8x8", TEN, {"crop": "whole"}, (10, 1, "whole", 256, "mmaction2")),
    ],
)
def test_defaults(clip, views, options, expected):
    info = WeightsInfo(config={"clip": clip, "num_classes": 2}, views=views)
    found = make_test_set(RECORDS, info, **options)
    transform = found.transform
    assert expected == (
        found.num_clips,
        transform.num_crops,
        transform.crop,
        transform.short_side,
        transform.rule,
    )
    assert found.rule == expected[-1]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_what_is_averaged(average):
    class Network(torch.nn.Linear):
        def forward(self, x):
            return x.flatten(1)[:, :2]

    views = torch.randn(3, 3, 1, 2, 2)
    logits = views.flatten(1)[:, :2]
    forward = Forward(Network(1, 1), lambda x: x, False, average)
    by_hand = {"probabilities": logits.softmax(1).mean(0), "logits": logits.mean(0).softmax(0)}
    assert torch.allclose(forward.of_video(forward(views)), by_hand[average])
    assert not torch.allclose(by_hand["logits"], by_hand["probabilities"])
