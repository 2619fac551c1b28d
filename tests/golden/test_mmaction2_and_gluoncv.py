"""SlowOnly and TSM of MMAction2, I3D of GluonCV: file in, the numbers of their own code out."""

import json
import warnings
from functools import cache

import numpy as np
import pytest
import recipe
import torch

import nonlocalnet as nl
from nonlocalnet.blocks import bottleneck
from nonlocalnet.blocks.shift import temporal_shift

SLOW, TSM = "mmaction2_slowonly_r50_8x8_nl", "mmaction2_tsm_r50_nl_embedded_gaussian"
TSM_DOT, I3D = "mmaction2_tsm_r50_nl_dot_product", "gluoncv_i3d_nl5_resnet50"
# What a file of GluonCV does not say.
SAID = {
    "clip": "32x2",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "multi_label": False,
}


@pytest.fixture(scope="module")
def family(oracle, tmp_path_factory):
    """Return a function from a name to the manifest, the numbers and the network of its file."""
    folder = tmp_path_factory.mktemp("families")

    @cache
    def load(name):
        manifest = json.loads((oracle / f"families/{name}.json").read_text())
        expected = np.load(oracle / f"families/{name}.npz")["logits_fp64"]
        drawn = recipe.parameters(manifest)
        state = {key: torch.from_numpy(value) for key, value in drawn.items()}
        content = {"meta": manifest["meta"], "state_dict": state} if "meta" in manifest else state
        torch.save(content, folder / f"{name}.pth")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is assumed
            model = nl.load(folder / f"{name}.pth", **(SAID if name == I3D else {}))
        clip = torch.from_numpy(recipe.clip(manifest["input"]["shape"]))
        return manifest, expected, model, clip.transpose(1, 2) if "tsm" in name else clip

    return load


def error(logits, expected) -> float:
    """The largest difference, in deviations of the expected."""
    return float(np.abs(logits.numpy() - expected).max() / expected.std())


@pytest.mark.parametrize("name", [SLOW, TSM, pytest.param(TSM_DOT, marks=pytest.mark.slow), I3D])
@torch.no_grad()
def test_logits_are_those_of_their_code(family, name):
    manifest, expected, model, clip = family(name)
    value = error(model(clip), expected)
    print(f"oracle {name}: logits {value:.1e}")
    assert value <= manifest["tolerance"]["logits"]


def reverse(x, div):
    return temporal_shift(x.flip(2), div).flip(2)


def shift_all(self, x, forward=bottleneck.Bottleneck.forward):
    """Shift what enters the block, for the shortcut, too."""
    return forward(self, temporal_shift(x, self.shift_div))


def keep(x, div):
    return x


MOVED = {"res3": (1, 3), "res4": (1, 3, 5)}
# What is easily got wrong, and moves the logits by far more than the tolerance.
WRONG = [
    (SLOW, {"scale": None}),
    (SLOW, {"non_local": MOVED}),
    (TSM, {"subsample_position": "before"}),
    (I3D, {"stem_padding": 0}),
    (I3D, {"pool2_time": 1}),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (SLOW, {"stem_padding": 0}),
            (SLOW, {"subsample_position": "before"}),
            (SLOW, {"pool2_time": 2}),
            (TSM, {"scale": "auto"}),
            (TSM, {"non_local": MOVED}),
            (I3D, {"scale": None}),
            (I3D, {"subsample": (1, 2, 2)}),
        )
    ),
]


@torch.no_grad()
def wrong_error(family, name, change) -> float:
    """The error of the same weights in another network."""
    _, expected, right, clip = family(name)
    wrong = nl.create_model(**(right.config | change))
    state = right.state_dict()
    if "non_local" in change:  # the same blocks, elsewhere
        state = {moved(key): value for key, value in state.items()}
    wrong.load_state_dict(state)
    return error(wrong.eval()(clip), expected)


def moved(key: str) -> str:
    stage, _, rest = key.partition(".non_local")
    return f"{stage}.non_local{int(rest[0]) + 1}{rest[1:]}" if rest else key


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_another_convention_gives_other_logits(family, name, change):
    assert wrong_error(family, name, change) > 0.1


@pytest.mark.parametrize("shift", [reverse, keep])
def test_another_shift_gives_other_logits(family, monkeypatch, shift):
    monkeypatch.setattr(bottleneck, "temporal_shift", shift)
    assert wrong_error(family, TSM, {}) > 0.1


def test_a_shift_of_the_shortcut_gives_other_logits(family, monkeypatch):
    monkeypatch.setattr(bottleneck.Bottleneck, "forward", shift_all)
    assert wrong_error(family, TSM, {}) > 0.1


@pytest.mark.parametrize("name", [SLOW, TSM])
@torch.no_grad()
def test_another_eps_gives_other_logits(family, name):
    manifest, expected, model, clip = family(name)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    try:
        for norm in norms:
            norm.eps = 1e-3
        assert error(model(clip), expected) > 10 * manifest["tolerance"]["logits"]
    finally:
        for norm in norms:
            norm.eps = 1.0000001e-5


def test_files_say_their_input_and_their_views(family):
    for name, clip, crops in ((SLOW, "8x8", 3), (TSM, "8seg", 10)):
        info = family(name)[2].info
        assert info.config["clip"] == clip
        assert info.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-9)
        assert info.std == pytest.approx((58.395 / 255, 57.12 / 255, 57.375 / 255))
        assert (info.short_side, info.views.num_crops, info.views.rule) == (256, crops, "mmaction2")
    assert family(TSM)[2].info.views.crop == 224
