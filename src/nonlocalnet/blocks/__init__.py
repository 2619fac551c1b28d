"""The non-local block and the bottleneck it goes between."""

from nonlocalnet.blocks.non_local_block import NonLocalBlock

__all__ = ["NonLocalBlock"]
