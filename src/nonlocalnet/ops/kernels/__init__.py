"""Kernels for GPUs. Each module is imported where it is used: `softmax` needs triton."""
