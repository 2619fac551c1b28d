"""A network in training: weights, optimizer, averages; and a plain copy for tests and files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.evaluation.multiview import autocast
from nonlocalnet.networks.registry import Network, create_model, family_of
from nonlocalnet.runtime.device import pick_precision
from nonlocalnet.training.optim import make_optimizer
from nonlocalnet.training.parallel import (
    gathering,
    model_state,
    parallelize,
    recompute_blocks,
    set_training_state,
    training_state,
)
from nonlocalnet.training.precise_bn import average_statistics, set_precise_statistics


class Learner:
    """Update a network, in one process or as one of many.

    Args:
        network: with its initial weights; it is moved to the device.
        device: where to compute.
        lr, momentum, weight_decay: of SGD, see `make_optimizer`.
        max_grad_norm: limit of the gradient's norm; 0 is none.
        precision: as in `pick_precision`; fp16 scales the loss.
        ema: decay of an average of the weights over the updates; 0 is none.
        parallel, sync_norm: see `parallelize`.
        recompute: see `recompute_blocks`.
        compile: whether to use torch.compile.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        max_grad_norm: float = 0.0,
        precision: str = "auto",
        ema: float = 0.0,
        parallel: str = "ddp",
        sync_norm: bool = False,
        recompute: bool = False,
        compile: bool = False,
    ) -> None:
        self.network, self.device, self.decay = network, device, ema
        self.max_grad_norm = max_grad_norm
        self.dtype = pick_precision(precision, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        network.to(device)
        self.copy = create_model(**network.config).to(device)
        # kernels as convolutions are fastest, on a CPU too (docs/results.md)
        set_memory_format = family_of(network).load("memory_format")
        if parallel != "fsdp":  # FSDP supports the default format only
            set_memory_format(network)
        set_memory_format(self.copy)
        self._average: dict[str, Tensor] = {}
        if ema:
            self._average = {name: p.detach().clone() for name, p in network.named_parameters()}
        if recompute:
            recompute_blocks(network)
        if compile:
            network.compile()
        self._model = parallelize(network, device, parallel=parallel, sync_norm=sync_norm)
        self._optimizer = make_optimizer(
            self._model, lr, momentum=momentum, weight_decay=weight_decay
        )

    def to_device(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device; clips in the memory format that is fastest there."""
        memory_format = torch.channels_last_3d if tensor.ndim == 5 else torch.preserve_format
        return tensor.to(self.device, non_blocking=True, memory_format=memory_format)

    def forward(self, *inputs: Any) -> Any:
        """Run the network in training mode."""
        self._model.train()
        with autocast(self.device, self.dtype):
            return self._model(*inputs)

    def gathering(self, last: bool) -> AbstractContextManager[None]:
        """Exchange gradients only in the last forward and backward pass of an update."""
        return gathering(self._model, last)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        self._scaler.scale(loss).backward()

    def step(self, rate: float) -> None:
        """Update the weights with a learning rate, and reset the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self.max_grad_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self.max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        if self._average:
            for name, parameter in self.network.named_parameters():
                self._average[name].lerp_(parameter.detach(), 1 - self.decay)

    def refresh_copy(self, batches: Iterable[tuple[Any, ...]] | None = None) -> None:
        """Copy the weights, or their average, into the plain copy.

        Its batch norms get the statistics of the network's inputs in `batches`
        (`set_precise_statistics`), or the means of all processes' running averages.
        """
        self.copy.load_state_dict(model_state(self._model) | self._average)
        if batches is None:
            average_statistics(self.copy)
        else:
            with autocast(self.device, self.dtype):
                set_precise_statistics(self.copy, batches)

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs, in rank 0; nothing in the other processes."""
        average_statistics(self.network)  # else those of the other processes would be lost
        state = training_state(self._model, self._optimizer)
        if state:
            state["scaler"] = self._scaler.state_dict()
            state["ema"] = {name: value.cpu() for name, value in self._average.items()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, in every process."""
        set_training_state(self._model, self._optimizer, state)
        self._scaler.load_state_dict(state["scaler"])
        for name, value in self._average.items():
            value.copy_(state["ema"][name])
