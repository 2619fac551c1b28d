"""The non-local operation."""

from nonlocalnet.ops.dispatch import affinity, explain, non_local
from nonlocalnet.ops.pairwise import PAIRWISE, Pairwise

__all__ = ["PAIRWISE", "Pairwise", "affinity", "explain", "non_local"]
