import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.inspection.affinity import attend, non_local_blocks


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32).eval()


def test_blocks_are_found_by_module_path(model):
    assert list(non_local_blocks(model)) == ["res3.non_local0", "res3.non_local1"]
    assert non_local_blocks(torch.nn.Linear(1, 1)) == {}


def test_the_row_is_that_of_the_cell_that_covers_the_pixel(model):
    clip = torch.randn(3, 8, 32, 32)
    found = attend(model, clip, (5, 31, 9), block="res3.non_local0")
    # 8 frames at 4 steps, 32 pixels at 4 cells: frame 5 -> 2, row 31 -> 3, column 9 -> 1
    assert found.size == (4, 4, 4)
    assert found.query == (2, 3, 1)
    maps = {}
    with torch.no_grad():
        model.features(clip[None], maps)
        whole = model.res3.non_local0.affinity(maps["res3.block0"])[0]
    expected = whole.view(4, 4, 4, 4, 2, 2)[2, 3, 1]
    torch.testing.assert_close(found.weights, expected)
    assert found.normalised
    assert found.weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_last_block_is_the_default_and_the_mode_is_kept(model):
    model.train()
    before = model.norm1.running_mean.clone()
    assert attend(model, torch.randn(3, 8, 32, 32), (0, 0, 0)).block == "res3.non_local1"
    assert model.training
    assert torch.equal(model.norm1.running_mean, before)


def test_dot_product_is_not_called_normalised():
    model = nl.create_model(
        "c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32, pairwise="dot_product", scale="auto"
    )
    assert not attend(model, torch.randn(3, 8, 32, 32), (0, 0, 0)).normalised


@pytest.mark.parametrize(
    ("name", "options", "arguments", "said"),
    [
        ("c2d_tiny", {}, {}, "no non-local block"),
        ("c2d_tiny_nl2", {}, {"block": "res3.non_local7"}, "did you mean 'res3.non_local"),
        ("c2d_tiny_nl2", {}, {"at": (8, 0, 0)}, r"at must be .* within \(8, 32, 32\)"),
        ("c2d_tiny_nl2", {}, {"at": (0, -1, 0)}, "at must be"),
        ("c2d_tiny_nl2", {"extent": "time"}, {}, "extent='time'"),
    ],
)
def test_what_cannot_be_shown_is_said(name, options, arguments, said):
    model = nl.create_model(name, num_classes=2, clip="8x1", crop=32, **options)
    with pytest.raises(ValueError, match=said):
        attend(model, torch.randn(3, 8, 32, 32), **({"at": (0, 0, 0)} | arguments))
