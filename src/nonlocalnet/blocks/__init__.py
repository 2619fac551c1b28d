"""The non-local block, its insertion into networks, and other layers of the video networks."""

from nonlocalnet.blocks.non_local_block import NonLocalBlock

__all__ = ["NonLocalBlock"]
