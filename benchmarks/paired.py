"""Compare two networks that were trained with the same seeds."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def sign_flip(differences: Sequence[float]) -> float:
    """Return the p value of paired differences, exact and two-sided.

    Under the null hypothesis each difference is as likely to have the other sign: p is the share of
    all 2^n choices of signs whose sum is at least as far from 0.
    """
    seen = abs(sum(differences)) - 1e-9
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(flip, differences, strict=True))) for flip in signs]
    return sum(value >= seen for value in sums) / len(sums)


def compare(ahead: Mapping[int, float], behind: Mapping[int, float]) -> dict[str, Any]:
    """Compare two networks over the seeds that both have."""
    differences = [ahead[seed] - behind[seed] for seed in sorted(ahead.keys() & behind.keys())]
    n = len(differences)
    return {
        "seeds": n,
        "difference": round(statistics.mean(differences), 3),
        "standard_error": round(statistics.stdev(differences) / n**0.5, 3) if n > 1 else None,
        "p": round(sign_flip(differences), 4),
    }
