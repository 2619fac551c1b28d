"""The non-local operation, its weights, and the choice of an implementation."""

from nonlocalnet.ops.dispatch import affinity, explain, non_local
from nonlocalnet.ops.pairwise import PAIRWISE
from nonlocalnet.options import Pairwise

__all__ = ["PAIRWISE", "Pairwise", "affinity", "explain", "non_local"]
