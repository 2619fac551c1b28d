"""Stand-ins for blocks of other projects, written from their formulas (the oracle's `spec`).

They have the class names, attributes and keys of the originals, and build the N x M matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0, heads: int = 1) -> Tensor:
    """Softmax attention of maps (B, heads · d, ...) with the whole matrix."""
    q, k, v = (t.flatten(2).unflatten(1, (heads, -1)) for t in (q, k, v))
    w = (q.mT @ k * scale).softmax(-1)
    return (v @ w.mT).flatten(1, 2)


def named(name: str) -> Any:
    """Give a class the name that it has in its project; several projects use the same."""

    def rename(kind: Any) -> Any:
        kind.__name__ = name
        return kind

    return rename


def attn_block_init(self: Any, c: int) -> None:
    nn.Module.__init__(self)
    self.in_channels = c
    self.norm = nn.GroupNorm(32, c, eps=1e-6)
    self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))


class AttnBlock(nn.Module):  # latent-diffusion
    __init__: Any = attn_block_init

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        q, k, v = self.q(z), self.k(z), self.v(z)
        return x + self.proj_out(dense(q, k, v, q.shape[1] ** -0.5).view_as(x))


@named("AttnBlock")
class FluxAttnBlock(nn.Module):  # by torch's attention
    __init__: Any = attn_block_init

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        q, k, v = (p(z).flatten(2).mT.unsqueeze(1).contiguous() for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1).mT
        return x + self.proj_out(y.reshape(x.shape))


@named("AttnBlock")
class VarAttnBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, c, eps=1e-6)
        self.qkv, self.proj_out = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, 1)
        return x + self.proj_out(dense(q, k, v, q.shape[1] ** -0.5).view_as(x))


class HunyuanImageAttentionBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, c, eps=1e-6)
        self.to_q, self.to_k, self.to_v, self.proj = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        q, k, v = self.to_q(z), self.to_k(z), self.to_v(z)
        return self.proj(dense(q, k, v, q.shape[1] ** -0.5).view_as(x)) + x


class NIN(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(n, n)), nn.Parameter(torch.randn(n))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bc...,cd->bd...", x, self.W) + self.b[:, None, None]


class AttnBlockpp(nn.Module):
    def __init__(self, c: int, skip_rescale: bool = False) -> None:
        super().__init__()
        self.GroupNorm_0 = nn.GroupNorm(min(c // 4, 32), c, eps=1e-6)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(c) for _ in range(4))
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor) -> Tensor:
        z = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(z), self.NIN_1(z), self.NIN_2(z)
        y = x + self.NIN_3(dense(q, k, v, q.shape[1] ** -0.5).view_as(x))
        return y / 2**0.5 if self.skip_rescale else y


class RMS(nn.Module):
    def __init__(self, c: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(c, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.gamma


class AttentionBlock(nn.Module):  # Wan
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = RMS(c, 2)
        self.to_qkv, self.proj = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, t = x.shape[:3]
        frames = x.transpose(1, 2).flatten(0, 1)
        q, k, v = self.to_qkv(self.norm(frames)).chunk(3, 1)
        y = self.proj(dense(q, k, v, q.shape[1] ** -0.5).view_as(frames))
        return y.unflatten(0, (b, t)).transpose(1, 2) + x


class FrameNorm(nn.Module):
    """Group norm of each frame alone."""

    def __init__(self, c: int, groups: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)
        return self.norm(frames).unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def each_frame(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    y = [
        dense(*(t[:, :, i] for t in (q, k, v)), scale).view_as(q[:, :, i])
        for i in range(q.shape[2])
    ]
    return torch.stack(y, 2)


class CausalAttnBlock(nn.Module):  # Cosmos-Tokenizer's
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = FrameNorm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv3d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        q, k, v = self.q(z), self.k(z), self.v(z)
        return x + self.proj_out(each_frame(q, k, v, q.shape[1] ** -0.5))


class CosmosSpatialAttentionProcessor2_0:
    def __call__(self, attn: Any, hidden_states: Tensor) -> Tensor:
        z = attn.norm(hidden_states)
        q, k, v = attn.to_q(z), attn.to_k(z), attn.to_v(z)
        y = each_frame(q, k, v, q.shape[1] ** -0.5)
        return attn.to_out[1](attn.to_out[0](y)) + hidden_states


class CosmosCausalAttention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.num_attention_heads = 1
        self.norm = FrameNorm(c)
        self.to_q, self.to_k, self.to_v = (nn.Conv3d(c, c, 1) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Conv3d(c, c, 1), nn.Dropout(0.0)])
        self.processor = CosmosSpatialAttentionProcessor2_0()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.processor(self, hidden_states)


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    frame = q[0, 0, 0].numel()
    frames = torch.arange(q[0, 0].numel()) // frame
    mask = frames[:, None] < frames
    q, k, v = (t.flatten(2) for t in (q, k, v))
    w = (q.mT @ k * scale).masked_fill(mask, -torch.inf).softmax(-1)
    return v @ w.mT


class HunyuanVideo15AttnBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = RMS(c, 3)
        self.to_q, self.to_k, self.to_v, self.proj_out = (nn.Conv3d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        q, k, v = self.to_q(z), self.to_k(z), self.to_v(z)
        return self.proj_out(causal(q, k, v, q.shape[1] ** -0.5).view_as(x)) + x


class QKVAttention(nn.Module):  # guided-diffusion, new order
    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.chunk(3, 1)
        return dense(q, k, v, (q.shape[1] // self.n_heads) ** -0.5, self.n_heads)


class QKVAttentionLegacy(nn.Module):
    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = (t.flatten(1, 2) for t in qkv.unflatten(1, (self.n_heads, 3, -1)).unbind(2))
        return dense(q, k, v, (q.shape[1] // self.n_heads) ** -0.5, self.n_heads)


@named("AttentionBlock")
class GuidedAttentionBlock(nn.Module):
    def __init__(self, c: int, heads: int, legacy: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, c)
        self.qkv, self.proj_out = nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)
        self.attention = QKVAttentionLegacy(heads) if legacy else QKVAttention(heads)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return (flat + self.proj_out(self.attention(self.qkv(self.norm(flat))))).view_as(x)


@named("SelfAttention")
class SR3SelfAttention(nn.Module):
    def __init__(self, c: int, n_head: int = 1, norm_groups: int = 32) -> None:
        super().__init__()
        self.n_head = n_head
        self.norm = nn.GroupNorm(norm_groups, c)
        self.qkv, self.out = nn.Conv2d(c, 3 * c, 1, bias=False), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).unflatten(1, (self.n_head, 3, -1)).unbind(2)
        q, k, v = (t.flatten(1, 2) for t in qkv)
        return self.out(dense(q, k, v, x.shape[1] ** -0.5, self.n_head).view_as(x)) + x


class UNetBlock(nn.Module):  # EDM
    def __init__(self, c: int, emb: int, num_heads: int = 1, adaptive_scale: bool = True) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.adaptive_scale = num_heads, 0.0, adaptive_scale
        self.skip_scale, self.skip = 0.5**0.5, None
        groups = min(32, c // 4)
        self.norm0, self.conv0 = nn.GroupNorm(groups, c), nn.Conv2d(c, c, 3, padding=1)
        self.affine = nn.Linear(emb, 2 * c if adaptive_scale else c)
        self.norm1, self.conv1 = nn.GroupNorm(groups, c), nn.Conv2d(c, c, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c)
        self.qkv, self.proj = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        p = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            a, b = p.chunk(2, 1)
            h = F.silu(self.norm1(h) * (a + 1) + b)
        else:
            h = F.silu(self.norm1(h + p))
        h = (x + self.conv1(h)) * self.skip_scale
        qkv = self.qkv(self.norm2(h)).unflatten(1, (self.num_heads, -1, 3)).unbind(3)
        q, k, v = (t.flatten(1, 2) for t in qkv)
        y = dense(q, k, v, (q.shape[1] // self.num_heads) ** -0.5, self.num_heads)
        return (h + self.proj(y.view_as(h))) * self.skip_scale


@named("Attention")
class LucidrainsAttention(nn.Module):
    def __init__(self, c: int, heads: int = 2, d: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMS(c, 2)
        self.attend = nn.Identity()
        self.mem_kv = nn.Parameter(torch.randn(2, heads, 4, d))
        self.to_qkv = nn.Conv2d(c, 3 * heads * d, 1, bias=False)
        self.to_out = nn.Conv2d(heads * d, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.flatten(2).unflatten(1, (self.heads, -1)).mT
            for t in self.to_qkv(self.norm(x)).chunk(3, 1)
        )
        k, v = (
            torch.cat([m.expand(x.shape[0], -1, -1, -1), t], 2)
            for m, t in zip(self.mem_kv, (k, v), strict=True)
        )
        w = self.attend(q @ k.mT * q.shape[3] ** -0.5).softmax(-1)
        return self.to_out((w @ v).mT.flatten(1, 2).unflatten(2, x.shape[2:]))


class PAM_Module(nn.Module):  # DANet
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query_conv, self.key_conv = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1)
        self.value_conv = nn.Conv2d(c, c, 1)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        w = self.softmax(self.query_conv(x).flatten(2).mT @ self.key_conv(x).flatten(2))
        return self.gamma * (self.value_conv(x).flatten(2) @ w.mT).view_as(x) + x


class Self_Attn(nn.Module):  # SAGAN: returns the weights, too
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query_conv, self.key_conv = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1)
        self.value_conv = nn.Conv2d(c, c, 1)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w = self.softmax(self.query_conv(x).flatten(2).mT @ self.key_conv(x).flatten(2))
        return self.gamma * (self.value_conv(x).flatten(2) @ w.mT).view_as(x) + x, w


class SNConv2d(nn.Conv2d):
    """BigGAN's: one power iteration per call, kept in training."""

    def __init__(self, n: int, out: int) -> None:
        super().__init__(n, out, 1, bias=False)
        self.register_buffer("u0", torch.randn(1, out))
        self.register_buffer("sv0", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ w, eps=1e-12)
            u = F.normalize(v @ w.mT, eps=1e-12)
            if self.training:
                self.u0.copy_(u)
        sigma = (v @ w.mT @ u.mT).squeeze()
        if self.training:
            with torch.no_grad():
                self.sv0[:] = sigma
        return F.conv2d(x, self.weight / sigma)


@named("Attention")
class BigGANAttention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(0.0))
        self.theta, self.phi = SNConv2d(c, c // 8), SNConv2d(c, c // 8)
        self.g, self.o = SNConv2d(c, c // 2), SNConv2d(c // 2, c)

    def forward(self, x: Tensor) -> Tensor:
        phi, g = F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        y = dense(self.theta(x), phi, g).unflatten(2, x.shape[2:])
        return self.gamma * self.o(y) + x


@named("SelfAttention")
class FastaiSelfAttention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query, self.key, self.value = (
            nn.Sequential(spectral_norm(nn.Conv1d(c, n, 1, bias=False)))
            for n in (c // 8, c // 8, c)
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(*x.shape[:2], -1)
        q, k, v = self.query(flat), self.key(flat), self.value(flat)
        return (self.gamma * (v @ (q.mT @ k).softmax(1)) + flat).view_as(x).contiguous()


@named("NONLocalBlock2D")
class TextbookBlock(nn.Module):
    """AlexHex7's parts, which fast-reid and RNAN have, too."""

    def __init__(
        self, c: int, dims: int, pairwise: str, sub_sample: bool, bn_layer: bool, d: int = 0
    ) -> None:
        super().__init__()
        self.in_channels, self.inter_channels, self.pairwise = c, d or c // 2, pairwise
        conv, pool = CONV[dims], POOL[dims]((1, 2, 2) if dims == 3 else 2)
        d = self.inter_channels
        self.g = conv(c, d, 1)
        self.W = conv(d, c, 1)
        if bn_layer:
            self.W = nn.Sequential(self.W, NORM[dims](c))
        if pairwise != "gaussian":
            self.theta, self.phi = conv(c, d, 1), conv(c, d, 1)
        if pairwise == "concatenation":
            self.concat_project = nn.Sequential(nn.Conv2d(2 * d, 1, 1, bias=False), nn.ReLU())
        if sub_sample:
            self.g = nn.Sequential(self.g, pool)
            self.phi = pool if pairwise == "gaussian" else nn.Sequential(self.phi, pool)

    def forward(self, x: Tensor, return_nl_map: bool = False) -> Any:
        theta = getattr(self, "theta", nn.Identity())(x).flatten(2)
        phi = getattr(self, "phi", nn.Identity())(x).flatten(2)
        if self.pairwise == "concatenation":
            n, m = theta.shape[2], phi.shape[2]
            pairs = [
                theta.unsqueeze(3).expand(-1, -1, -1, m),
                phi.unsqueeze(2).expand(-1, -1, n, -1),
            ]
            w = self.concat_project(torch.cat(pairs, 1)).squeeze(1) / m
        elif self.pairwise == "dot_product":
            w = theta.mT @ phi / phi.shape[2]
        elif self.pairwise == "softmax_queries":
            w = (theta.mT @ phi).softmax(1)
        else:
            w = (theta.mT @ phi).softmax(2)
        y = (w @ self.g(x).flatten(2).mT).mT.reshape(x.shape[0], -1, *x.shape[2:])
        z = self.W(y) + x
        return (z, w) if return_nl_map else z


class NL3DWrapper(nn.Module):  # TSM
    def __init__(self, block: nn.Module, nl: nn.Module, n_segment: int) -> None:
        super().__init__()
        self.block, self.nl, self.n_segment = block, nl, n_segment

    def forward(self, x: Tensor) -> Tensor:
        x = self.block.bn3(x).unflatten(0, (-1, self.n_segment)).transpose(1, 2)
        return self.nl(x).transpose(1, 2).flatten(0, 1)


class ConvModule(nn.Module):  # mmcv
    def __init__(self, conv: nn.Module, bn: nn.Module | None = None, relu: bool = False) -> None:
        super().__init__()
        self.conv = conv
        if bn is not None:
            self.bn = bn
        if relu:
            self.activate = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


@named("NonLocal2d")
class MmcvNonLocal(nn.Module):
    def __init__(
        self, c: int, dims: int, mode: str, sub_sample: bool = False, use_scale: bool = True,
        bn: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        conv, pool = CONV[dims], POOL[dims]((1, 2, 2) if dims == 3 else 2)
        self.mode, self.use_scale, self.sub_sample = mode, use_scale, sub_sample
        self.in_channels, self.inter_channels = c, c // 2
        d = c // 2
        self.g = ConvModule(conv(c, d, 1))
        self.conv_out = ConvModule(conv(d, c, 1, bias=not bn), NORM[dims](c) if bn else None)
        if mode != "gaussian":
            self.theta, self.phi = ConvModule(conv(c, d, 1)), ConvModule(conv(c, d, 1))
        if mode == "concatenation":
            self.concat_project = ConvModule(nn.Conv2d(2 * d, 1, 1, bias=False), relu=True)
        if sub_sample:
            self.g = nn.Sequential(self.g, pool)
            self.phi = pool if mode == "gaussian" else nn.Sequential(self.phi, pool)

    def forward(self, x: Tensor) -> Tensor:
        theta = getattr(self, "theta", nn.Identity())(x).flatten(2)
        phi = getattr(self, "phi", nn.Identity())(x).flatten(2)
        if self.mode == "concatenation":
            n, m = theta.shape[2], phi.shape[2]
            pairs = [
                theta.unsqueeze(3).expand(-1, -1, -1, m),
                phi.unsqueeze(2).expand(-1, -1, n, -1),
            ]
            w = self.concat_project(torch.cat(pairs, 1)).squeeze(1)
            w /= m  # in place on what the relu keeps: no backward
        elif self.mode == "dot_product":
            w = theta.mT @ phi / phi.shape[2]
        else:
            scaled = self.mode == "embedded_gaussian" and self.use_scale
            w = (theta.mT @ phi * (theta.shape[1] ** -0.5 if scaled else 1)).softmax(2)
        y = (w @ self.g(x).flatten(2).mT).mT.reshape(x.shape[0], -1, *x.shape[2:])
        return x + self.conv_out(y)


@named("NonLocal")
class VideoNonLocal(nn.Module):
    """pytorchvideo's, PySlowFast's and Tushar-N's, which pool first."""

    def __init__(self, c: int, names: tuple[str, ...], instantiation: str, pool: Any) -> None:
        super().__init__()
        self.names, self.instantiation = names, instantiation
        for name in names[:4]:
            setattr(self, name, nn.Conv3d(*((c // 2, c) if "out" in name else (c, c // 2)), 1))
        setattr(self, names[4], nn.BatchNorm3d(c))
        setattr(self, names[5], pool)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g, out, norm, pool = (getattr(self, name) for name in self.names)
        keys = x if pool is None else pool(x)
        q, k, v = theta(x).flatten(2), phi(keys).flatten(2), g(keys).flatten(2)
        if self.instantiation == "softmax":
            w = (q.mT @ k * q.shape[1] ** -0.5).softmax(2)
        else:
            w = q.mT @ k / k.shape[2]
        return x + norm(out((v @ w.mT).view(x.shape[0], -1, *x.shape[2:])))


@named("NonLocalBlock")
class TusharNonLocal(VideoNonLocal):
    """It is only named otherwise."""


class NonLocalAttn(nn.Module):  # timm
    def __init__(self, c: int, use_scale: bool = True) -> None:
        super().__init__()
        self.scale = c**-0.5 if use_scale else 1.0
        d = c // 8
        self.t, self.p, self.g = (nn.Conv2d(c, d, 1) for _ in range(3))
        self.z, self.norm = nn.Conv2d(d, c, 1), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        y = dense(self.t(x), self.p(x), self.g(x), self.scale)
        return self.norm(self.z(y.unflatten(2, x.shape[2:]))) + x


class SABlock(nn.Module):  # MONAI
    def __init__(self, c: int, num_heads: int = 1, combined: bool = False) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (c // num_heads) ** -0.5
        self.use_combined_linear, self.include_fc, self.attention_dtype = combined, True, None
        self.save_attn, self.causal, self.use_flash_attention = False, False, False
        self.dropout_rate, self.rel_positional_embedding = 0.0, None
        self.out_proj, self.drop_output = nn.Linear(c, c), nn.Dropout(0.0)
        if combined:
            self.qkv = nn.Linear(c, 3 * c)
            self.to_q = self.to_k = self.to_v = nn.Identity()
        else:
            self.qkv = nn.Identity()
            self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if self.use_combined_linear:
            q, k, v = self.qkv(x).chunk(3, 2)
        else:
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        assert attn_mask is None
        y = dense(q.mT, k.mT, v.mT, self.scale, self.num_heads).mT
        return self.drop_output(self.out_proj(y))


class SpatialAttentionBlock(nn.Module):
    def __init__(self, c: int, **options: Any) -> None:
        super().__init__()
        self.norm, self.attn = nn.GroupNorm(32, c, eps=1e-6), SABlock(c, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.norm(x).flatten(2).mT).mT.reshape(x.shape) + x
