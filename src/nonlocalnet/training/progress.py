"""What updates measured: as text for the progress bar, as values for metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nonlocalnet.training.tasks import Task


@dataclass(frozen=True)
class Progress:
    """Format means over updates: loss, the task's values, seconds of waiting, seconds in all.

    Args:
        task: names its values.
        batch_size: of an update, in all processes.
        device: whose memory is reported, if it is a GPU.
    """

    task: Task
    batch_size: int
    device: torch.device

    def text(self, means: list[float], rate: float) -> str:
        """Format them for the progress bar, with the learning rate."""
        loss, *values, waited, took = means
        words = [f"loss {loss:.3f}", *self.task.format_logged(values), f"lr {rate:.3g}"]
        words.append(f"{self.batch_size / took:.1f} {self.task.unit}/s")
        words.append(f"waiting for data {waited / took:.0%}")
        if self.device.type == "cuda":
            words.append(f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB")
        return "  ".join(words)

    def values(self, means: list[float], rate: float) -> dict[str, float]:
        """Name them for a line of metrics.jsonl, with the learning rate."""
        loss, *values, waited, took = means
        found = {"loss": loss, **dict(zip(self.task.logged, values, strict=True)), "lr": rate}
        found |= {
            f"{self.task.unit}_per_second": self.batch_size / took,
            "data_share": waited / took,
        }
        if self.device.type == "cuda":
            found["gpu_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return found
