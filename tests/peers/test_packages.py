"""nl.accelerate on the networks of real packages: `make test-peers` installs and runs them.

Not part of the gate: pytest collects this folder only when it is named, and skips what is absent.
"""

import copy
import importlib
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nonlocalnet as nl
from nonlocalnet.acceleration.attend import attend
from nonlocalnet.acceleration.calls import observed

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import wild_recipe as recipe  # noqa: E402

CASES = json.loads((GOLDEN / "oracle" / "wild.json").read_text())
CLOSE = {"atol": 1e-9, "rtol": 1e-7}


def package(name: str) -> Any:
    pytest.importorskip(name.split(".")[0])
    return importlib.import_module(name)


class Wrapped(nn.Module):
    """A network that is called in another way than by its input alone."""

    def __init__(self, network: nn.Module, call: Callable) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.network, x)


def one_step(unet: Any, x: Tensor) -> Tensor:
    return unet(x, 3).sample


def decoded(autoencoder: Any, x: Tensor) -> Tensor:
    return autoencoder.decode(autoencoder.encode(x)[0])


def autoencoder_kl() -> tuple[nn.Module, Tensor]:
    kl = package("diffusers").AutoencoderKL
    return kl(block_out_channels=(32,), norm_num_groups=8), torch.randn(1, 3, 24, 24)


def unet() -> tuple[nn.Module, Tensor]:
    kind = package("diffusers").UNet2DModel
    network = kind(
        sample_size=24,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )

    return Wrapped(network, one_step), torch.randn(2, 3, 24, 24)


def video_block(module: str, kind: str, channels: int, **options: Any) -> Callable:
    def make() -> tuple[nn.Module, Tensor]:
        where = package(f"diffusers.models.autoencoders.{module}")
        return getattr(where, kind)(channels, **options), torch.randn(1, channels, 3, 6, 6)

    return make


def cosmos() -> tuple[nn.Module, Tensor]:
    where = package("diffusers.models.autoencoders.autoencoder_kl_cosmos")
    processor = where.CosmosSpatialAttentionProcessor2_0()
    return where.CosmosCausalAttention(1, 32, processor=processor), torch.randn(1, 32, 3, 6, 6)


def monai(**options: Any) -> Callable:
    def make() -> tuple[nn.Module, Tensor]:
        kind = package("monai.networks.nets").AutoencoderKL
        network = kind(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            num_res_blocks=(1, 1),
            channels=(8, 16),
            attention_levels=(False, True),
            latent_channels=2,
            norm_num_groups=4,
            **options,
        )

        return Wrapped(network, decoded), torch.randn(1, 1, 32, 32)

    return make


def mmcv(mode: str, **options: Any) -> Callable:
    def make() -> tuple[nn.Module, Tensor]:
        kind = package("mmcv.cnn").NonLocal2d
        return kind(16, mode=mode, zeros_init=False, **options), torch.randn(2, 16, 12, 14)

    return make


def pytorchvideo(**options: Any) -> Callable:
    def make() -> tuple[nn.Module, Tensor]:
        create = package("pytorchvideo.layers.nonlocal_net").create_nonlocal
        return create(dim_in=16, dim_inner=8, **options), torch.randn(2, 16, 4, 8, 8)

    return make


def timm() -> tuple[nn.Module, Tensor]:
    create = package("timm").create_model
    network = create("resnet18", num_classes=3, block_args={"attn_layer": "nl"})
    return network, torch.randn(2, 3, 64, 64)


def fastai() -> tuple[nn.Module, Tensor]:
    return package("fastai.layers").SelfAttention(32), torch.randn(2, 32, 10, 12)


NETWORKS: dict[str, tuple[Callable, int]] = {  # how to make it, number of blocks
    "diffusers AutoencoderKL": (autoencoder_kl, 2),
    "diffusers UNet2DModel": (unet, 4),
    "diffusers Wan": (video_block("autoencoder_kl_wan", "WanAttentionBlock", 16), 1),
    "diffusers Qwen": (video_block("autoencoder_kl_qwenimage", "QwenImageAttentionBlock", 16), 1),
    "diffusers VidTok": (video_block("autoencoder_vidtok", "VidTokAttnBlock", 16), 1),
    "diffusers Cosmos": (cosmos, 1),
    "diffusers HunyuanVideo": (
        video_block(
            "autoencoder_kl_hunyuan_video", "HunyuanVideoMidBlock3D", 32, attention_head_dim=32
        ),
        2,
    ),
    "diffusers HunyuanVideo-1.5": (
        video_block("autoencoder_kl_hunyuanvideo15", "HunyuanVideo15AttnBlock", 16),
        1,
    ),
    "MONAI AutoencoderKL": (monai(), 4),
    "MONAI AutoencoderKL, fused": (monai(use_flash_attention=True), 4),
    **{
        f"mmcv {mode} {sub}": (mmcv(mode, sub_sample=sub), 1)
        for mode in ("embedded_gaussian", "gaussian", "dot_product")
        for sub in (False, True)
    },
    "pytorchvideo softmax": (pytorchvideo(pool_size=(1, 2, 2)), 1),
    "pytorchvideo dot product": (pytorchvideo(instantiation="dot_product"), 1),
    "timm": (timm, 8),
    "fastai": (fastai, 1),
}


# they keep a tensor with a graph, which deepcopy refuses
UNCOPIED = {"fastai", "diffusers VidTok"}


def plain(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.sample


def step(network: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    network.zero_grad()
    torch.manual_seed(0)
    plain(network(x)).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_before_and_after(name):
    make, blocks = NETWORKS[name]
    torch.manual_seed(0)
    network, x = make()
    network, x = network.double(), x.double()
    with torch.no_grad():
        for parameter in network.parameters():  # gates and last layers are zero at first
            parameter.add_(0.05 * torch.randn_like(parameter))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    before: dict[bool, Any] = {}
    for training in (False, True):
        network.train(training).load_state_dict(state)
        before[training] = plain(network(x)).detach(), step(network, x)
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    found = nl.accelerate(network, verbose=False)
    assert len(found.accelerated) == blocks, str(found)
    assert not found.left_alone, str(found)
    with observed(lambda module: attend):  # at any size
        for training in (False, True):
            network.train(training).load_state_dict(state)
            torch.testing.assert_close(plain(network(x)), before[training][0], **CLOSE)
            for key, gradient in step(network, x).items():
                torch.testing.assert_close(gradient, before[training][1][key], **CLOSE, msg=key)
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, kept[key], **CLOSE, msg=key)
        network.eval()
        y = plain(network(x))
        if name not in UNCOPIED:
            for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
                assert torch.equal(plain(copied(x)), y)
    nl.restore(network)
    network.load_state_dict(state)
    assert torch.equal(plain(network(x)), before[False][0])


def test_autoencoder_compiles_whole():
    network, _ = autoencoder_kl()
    nl.accelerate(network.eval(), verbose=False)
    compiled = torch.compile(network.decoder, fullgraph=True, backend="eager")
    latent = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(latent), network.decoder(latent), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sub_sample", [False, True])
def test_mmcv_concatenation_trains(sub_sample):
    block, x = mmcv("concatenation", sub_sample=sub_sample)()
    expected = block(x)
    with pytest.raises(RuntimeError, match="inplace"):
        expected.sum().backward()
    assert nl.accelerate(block, verbose=False).accelerated
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
    gradients = step(block, x)
    assert all(gradient is not None for gradient in gradients.values())
    assert gradients["concat_project.conv.weight"].abs().max() > 0


@pytest.mark.parametrize(
    "case", ["diffusers_autoencoderkl_attn", "diffusers_unet2d_attn_h8", "hunyuanvideo_attn"]
)
@pytest.mark.parametrize("accelerated", [False, True])
def test_attention_of_diffusers_gives_the_oracles_numbers(case, accelerated):
    about, attention = CASES[case], package("diffusers.models.attention_processor").Attention
    heads, eps = (8, 1e-5) if "h8" in case else (1, 1e-6)
    block = attention(
        64,
        heads=heads,
        dim_head=64 // heads,
        eps=eps,
        norm_num_groups=32,
        residual_connection=True,
        bias=True,
        upcast_softmax=True,
    )
    block.load_state_dict({k: torch.from_numpy(v) for k, v in recipe.state(case, about).items()})
    block.double().eval()
    if accelerated:
        assert nl.accelerate(block, verbose=False).accelerated
    shape = tuple(about["sizes"]["small"])
    x = torch.from_numpy(recipe.feature_map(case, shape, 1.0)).double()
    with observed(lambda module: attend):
        if case == "hunyuanvideo_attn":
            frames = torch.arange(45) // 15
            mask = torch.where(frames <= frames[:, None], 0.0, -torch.inf).double()
            rows = x.permute(0, 2, 3, 4, 1).flatten(1, 3)
            y = block(rows, attention_mask=mask.expand(2, -1, -1)).mT.reshape(shape)
        else:
            y = block(x)
    found = recipe.spread(recipe.spread(y.detach().numpy(), 1024), 32)
    assert np.abs(found - np.array(about["out"])).max() < 1e-9 * about["output_std"]
