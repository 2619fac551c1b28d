"""NonLocalBlock with the right options gives the numbers of other projects' attention blocks.

The numbers are those of test_wild.py: outputs and gradients of the original code, in float64.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import wild_recipe as recipe

import nonlocalnet as nl

CASES = json.loads((Path(__file__).parent / "oracle" / "wild.json").read_text())
DIFFUSERS = {"theta": "to_q", "phi": "to_k", "g": "to_v", "w_z": "to_out.0"}
PRE_NORM = {"norm": None, "pre_norm": "group"}
BLOCKS = {  # names of the originals, and options
    "sagan_self_attn": (
        {"theta": "query_conv", "phi": "key_conv", "g": "value_conv"},
        {"norm": None, "gate": True, "w_z": False, "scale": None, "inner_channels": 4},
    ),
    "compvis_attnblock": (
        {"theta": "q", "phi": "k", "g": "v", "w_z": "proj_out", "pre_norm": "norm"},
        PRE_NORM | {"inner_channels": 64},
    ),
    "diffusers_unet2d_attn_h8": (
        DIFFUSERS | {"pre_norm": "group_norm"},
        PRE_NORM | {"inner_channels": 64, "heads": 8},
    ),
    "hunyuanvideo_attn": (
        DIFFUSERS | {"pre_norm": "group_norm"},
        PRE_NORM | {"inner_channels": 64, "extent": "causal"},
    ),
}
VAES = ("compvis_attnblock", "hunyuanvideo_attn")  # with a smaller eps than torch's default


@pytest.mark.parametrize("implementation", ["reference", "fused", "chunked"])
@pytest.mark.parametrize("case", BLOCKS)
def test_a_block_gives_the_numbers_of_the_original(case, implementation):
    names, options = BLOCKS[case]
    about = CASES[case]
    shape = tuple(about["sizes"]["small"])
    block = nl.NonLocalBlock(
        shape[1], len(shape) - 2, **options, implementation=implementation
    ).double()
    theirs = {key: torch.from_numpy(v) for key, v in recipe.state(case, about).items()}
    ours = dict(block.named_parameters())
    keys = {name: name for name in ours}
    for own, other in names.items():
        keys |= {f"{own}.{kind}": f"{other}.{kind}" for kind in ("weight", "bias")}
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(theirs[keys[name]].view_as(parameter))
    if case in VAES:
        block.pre_norm.eps = 1e-6
    x = torch.from_numpy(recipe.feature_map(case, shape, about["input_gain"])).double()
    z = block(x.requires_grad_())
    z.backward(torch.from_numpy(recipe.normal(case, "cotangent", shape)).double())
    expected = np.array(about["out"])
    found = recipe.spread(recipe.spread(z.detach().numpy(), 1024), expected.size)
    assert np.abs(found - expected).max() < 1e-9 * about["output_std"]
    gradients = {"x": x.grad} | {keys[name]: p.grad for name, p in ours.items()}
    for key, values in about["grads"].items():
        gradient = gradients[key].numpy()
        found = recipe.spread(recipe.spread(gradient, 256), len(values))
        assert np.abs(found - values).max() < 1e-9 * np.abs(gradient).max(), key
