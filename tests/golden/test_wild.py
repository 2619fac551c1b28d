"""Blocks of other projects give the numbers of the original code, before and after nl.accelerate.

The numbers are in oracle/wild.json: outputs and gradients in float64 of a small input. The blocks
here are stand-ins with the same keys; tests/peers runs the real packages.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wild_recipe as recipe
from torch import Tensor, nn

import nonlocalnet as nl
import stand_ins as wild
from nonlocalnet.acceleration.attend import attend
from nonlocalnet.acceleration.calls import observed

CASES = json.loads((Path(__file__).parent / "oracle" / "wild.json").read_text())
FACEBOOK = ("conv_theta", "conv_phi", "conv_g", "conv_out")
TOLERANCE = 1e-9  # of the standard deviation of outputs, and of the largest gradient


def textbook(dims: int, pairwise: str, *, sub: bool, bn: bool, d: int = 0) -> nn.Module:
    return wild.TextbookBlock(32, dims, pairwise, sub, bn, d)


def tsm() -> nn.Module:
    block = nn.Module()
    block.bn3 = nn.BatchNorm2d(32)
    nl_block = textbook(3, "embedded_gaussian", sub=True, bn=True)
    return wild.NL3DWrapper(block, nl_block, 3)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "alexhex7_concatenation_2d_sub_bn": lambda: textbook(2, "concatenation", sub=True, bn=True),
    "alexhex7_dot_product_2d": lambda: textbook(2, "dot_product", sub=False, bn=False),
    "alexhex7_embedded_gaussian_2d_sub_bn": lambda: textbook(
        2, "embedded_gaussian", sub=True, bn=True
    ),
    "alexhex7_gaussian_3d_sub_bn": lambda: textbook(3, "gaussian", sub=True, bn=True),
    "biggan_sn": lambda: wild.BigGANAttention(32),
    "compvis_attnblock": lambda: wild.AttnBlock(64),
    "diffusers_cosmos_spatial": lambda: wild.CosmosCausalAttention(32),
    "edm_unetblock": lambda: wild.UNetBlock(32, 16),
    "fastai_selfattention": lambda: wild.FastaiSelfAttention(32),
    "fastreid_non_local": lambda: textbook(2, "dot_product", sub=False, bn=True, d=1),
    "flux_attnblock": lambda: wild.FluxAttnBlock(64),
    "guided_new_h4": lambda: wild.GuidedAttentionBlock(64, 4),
    "hunyuanimage_attn": lambda: wild.HunyuanImageAttentionBlock(64),
    "mmcv_dot_3d_bn": lambda: wild.MmcvNonLocal(32, 3, "dot_product", bn=True),
    "mmcv_embedded_2d_sub_scale": lambda: wild.MmcvNonLocal(
        32, 2, "embedded_gaussian", sub_sample=True
    ),
    "monai_2d": lambda: wild.SpatialAttentionBlock(64),
    "pytorchvideo_softmax_pool": lambda: wild.VideoNonLocal(
        32, (*FACEBOOK, "norm", "pool"), "softmax", nn.MaxPool3d((1, 2, 2))
    ),
    "rnan_nonlocalblock2d": lambda: textbook(2, "softmax_queries", sub=False, bn=False),
    "sagan_self_attn": lambda: wild.Self_Attn(32),
    "score_sde_attnblockpp": lambda: wild.AttnBlockpp(64),
    "slowfast_softmax_nopool": lambda: wild.VideoNonLocal(
        32, (*FACEBOOK, "bn", "pool"), "softmax", None
    ),
    "sr3_selfattention": lambda: wild.SR3SelfAttention(64),
    "tsm_nl3dwrapper": tsm,
    "var_attnblock": lambda: wild.VarAttnBlock(64),
}
# diffusers' Attention is run by tests/peers, through its own class
WITHOUT_STAND_IN = {
    "diffusers_autoencoderkl_attn",
    "diffusers_unet2d_attn_h8",
    "hunyuanvideo_attn",
}


def test_every_case_has_a_stand_in():
    assert BLOCKS.keys() | WITHOUT_STAND_IN == CASES.keys()


def run(case: str, block: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs and gradients of the case's input."""
    about = CASES[case]
    shape = tuple(about["sizes"]["small"])
    x = torch.from_numpy(recipe.feature_map(case, shape, about["input_gain"])).double()
    inputs = {"x": x.requires_grad_()}
    for name, sizes in about["extra"].items():
        values = recipe.normal(case, f"{name}/small", tuple(sizes["small"]))
        inputs[f"extra.{name}"] = torch.from_numpy(values).double().requires_grad_()
    given = list(inputs.values())
    if case == "tsm_nl3dwrapper":
        frames = x.transpose(1, 2).flatten(0, 1)
        output = block(frames).unflatten(0, (shape[0], shape[2])).transpose(1, 2)
    else:
        output = block(*given)
    output = output[0] if isinstance(output, tuple) else output
    cotangent = torch.from_numpy(recipe.normal(case, "cotangent", tuple(output.shape))).double()
    block.zero_grad()
    output.backward(cotangent)
    parameters = dict(block.named_parameters())
    grads = {k: v.grad for k, v in (inputs | parameters).items() if v.grad is not None}
    return output.detach(), grads


def compare(case: str, output: Tensor, grads: dict[str, Tensor]) -> None:
    about = CASES[case]
    expected = np.array(about["out"])
    found = recipe.spread(recipe.spread(output.numpy(), 1024), expected.size)
    difference = np.abs(found - expected).max()
    assert difference < TOLERANCE * about["output_std"]
    for key, values in about["grads"].items():
        gradient = grads[key].numpy()
        found = recipe.spread(recipe.spread(gradient, 256), len(values))
        difference = np.abs(found - values).max()
        assert difference < TOLERANCE * np.abs(gradient).max(), key


LEFT_ALONE = {"rnan_nonlocalblock2d"}  # softmax over queries


@pytest.mark.parametrize("case", BLOCKS)
def test_numbers_of_the_original(case):
    about: dict[str, Any] = CASES[case]
    block = BLOCKS[case]()
    state = {k: torch.from_numpy(v) for k, v in recipe.state(case, about).items()}
    assert list(state) == list(block.state_dict())
    block.load_state_dict(state)
    block.double().eval()
    compare(case, *run(case, block))  # the stand-in is right
    found = nl.accelerate(block, verbose=False)
    assert len(found.accelerated) == (case not in LEFT_ALONE), found
    with observed(lambda module: attend):  # at any size
        compare(case, *run(case, block))
    assert list(block.state_dict()) == list(state)
