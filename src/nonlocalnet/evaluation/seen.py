"""Say whether a network was trained on the data that it is tested on."""

from __future__ import annotations

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.runtime.log import console


def say_if_seen(info: WeightsInfo, identity: str, what: str) -> str | None:
    """Print and return whether the weights were trained on this data or selected by it.

    Args:
        info: of the weights.
        identity: hash of the data, as training wrote it.
        what: "videos" or "images".

    Returns:
        "training", "validation" or None.
    """
    if info.facts.get("trained_on") == identity:
        console.print(
            f"the network was trained on these {what}: expect lower scores on others",
            soft_wrap=True,
        )
        return "training"
    if info.facts.get("chosen_on") == identity:
        console.print(
            f"these weights were chosen because they scored best on these {what}: expect lower "
            "scores on others",
            soft_wrap=True,
        )
        return "validation"
    return None
