"""Train a network on video files: SGD with Nesterov and a step schedule, as in the paper."""

from __future__ import annotations

from typing import Annotated

import tyro

from nonlocalnet.runtime.log import console
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.loop import train

INTERRUPTED = 130


def command(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> int:
    result = train(config)
    console.print(f"weights: {result.weights}")
    return INTERRUPTED if result.interrupted else 0
