"""Blocks that look alike and compute another function: they are named, and left alone."""

from __future__ import annotations

OTHERS = {
    "CrissCrossAttention": "CCNet attends along a row and a column only",
    "CAM_Module": "attention of channels, C x C",
    "ChannelAttention": "attention of channels",
    "NonLocalSparseAttention": "NLSN attends within hashed buckets",
    "CrossScaleAttention": "CSNLN compares patches with normalized keys",
    "BatNonLocalAttn": "it mixes rows and columns, and has no N x M matrix",
    "APNB": "its keys are a pyramid of 110 positions: nothing to gain",
    "AFNB": "its keys are a pyramid of 110 positions: nothing to gain",
    "LinAttnBlock": "linear attention",
    "LinearAttention": "linear attention",
    "SanaLinearAttention": "linear attention",
    "ContextBlock": "GCNet has one context for all positions, and no N x M matrix",
    "GlobalContext": "one context for all positions, and no N x M matrix",
    "SelfAttentionBlock2D": "OCNet projects queries and keys by one shared module",
}
