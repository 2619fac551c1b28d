"""The non-local operation and every way to compute it."""

from nonlocalnet.ops.dispatch import affinity, non_local
from nonlocalnet.ops.pairwise import PAIRWISE, Pairwise

__all__ = ["PAIRWISE", "Pairwise", "affinity", "non_local"]
