import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.blocks.bottleneck import Bottleneck
from nonlocalnet.blocks.insertion import NonLocalBlock

NARROW = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3, "crop": 32}


def shifting(name):
    model = nl.create_model(name, **NARROW)
    blocks = [(k, m) for k, m in model.named_modules() if isinstance(m, Bottleneck)]
    return [name for name, module in blocks if module.shift_div], len(blocks)


def test_every_block_shifts_or_every_second():
    assert shifting("tsm_r50") == (
        [f"res{s}.block{i}" for s, n in enumerate((3, 4, 6, 3), 2) for i in range(n)],
        16,
    )
    names, count = shifting("tsm_r101")
    assert count == 33
    assert names == [
        f"res{s}.block{i}" for s, n in enumerate((3, 4, 23, 3), 2) for i in range(0, n, 2)
    ]


def test_blocks_stand_where_mmaction2_and_tsm_have_them():
    model = nl.create_model("tsm_r50_nl5", **NARROW)
    places = [k for k, m in model.named_modules() if isinstance(m, NonLocalBlock)]
    assert places == [
        "res3.non_local0",
        "res3.non_local2",
        *(f"res4.non_local{i}" for i in (0, 2, 4)),
    ]
    assert model.config["clip"] == "8seg"


@pytest.mark.parametrize(
    "pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
)
def test_logits_are_the_mean_over_frames(pairwise):
    torch.manual_seed(0)
    model = nl.create_model("tsm_r50_nl5", pairwise=pairwise, **NARROW).eval()
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        frames = model.features(x).mean(dim=(3, 4)).transpose(1, 2)  # (B, T, C)
        assert frames.shape[:2] == (2, 8)
        torch.testing.assert_close(model(x), model.fc(frames).mean(dim=1))
        torch.testing.assert_close(model.probabilities(x), model(x).softmax(dim=1))


def test_training_drops_features_of_each_frame():
    model = nl.create_model("tsm_r50", dropout=0.5, **NARROW).train()
    seen = []
    model.dropout.register_forward_hook(lambda module, args, y: seen.append(args[0].shape))
    model(torch.randn(2, 3, 4, 32, 32))
    assert seen == [(2, 128, 4)]
