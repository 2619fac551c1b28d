"""A training task: data, loss and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from nonlocalnet.checkpoints.load import Pretrained
from nonlocalnet.errors import FileError
from nonlocalnet.networks.registry import Network
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.loader import TrainingData

TRIED = 5  # validation items of which one must be readable
Data = TypeVar("Data", bound=TrainingData)
ToDevice = Callable[[Tensor], Tensor]


class Task(ABC, Generic[Data]):
    """Data, a loss, and how the network is validated.

    Each family of networks has a task: `family.load("task")(config)` reads the data and makes it.

    Attributes:
        unit: what an update takes, "clips" or "images".
        items: what the data sets have, "videos" or "images".
        logged: names of the values that `loss` returns beside the loss.
        multi_label: whether a video has many labels.
        classes: names in label order.
        training: the training set.
        validation: the validation set, or None.
        fingerprint: hash of names and labels of the training set; a resumed run needs the same.
        options: arguments of the network, beside its classes, that the data determine.
    """

    unit: str
    items: str
    logged: tuple[str, ...]
    multi_label: bool
    classes: list[str]
    training: Data
    validation: Data | None
    fingerprint: str
    options: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __str__(self) -> str:
        """Describe the training set, for the console."""

    @abstractmethod
    def make_network(self, config: TrainConfig, start: Pretrained) -> Network:
        """Create the network for the data; its input is normalized as `start` says.

        Raises:
            ValueError: an option of the network contradicts the data.
        """

    def input_of(self, network: Network, start: Pretrained) -> Pretrained:
        """Return `start` with the normalization that the network really uses."""
        return start

    def check_readable(self) -> None:
        """Read a validation item before training, rather than fail hours later.

        Raises:
            ValueError: none of the first validation items can be read.
        """
        if self.validation is None:
            return
        errors: list[FileError] = []
        for index in range(min(TRIED, len(self.validation))):
            try:
                self.validation[index]
                return
            except FileError as error:
                errors.append(error)
        what = f"the first {len(errors)} validation {self.items}"
        raise ValueError(f"{what} cannot be read: {errors[0]}")

    @abstractmethod
    def identify(self, data: Data) -> str:
        """Hash a data set, so that weights can tell whether they were trained on it."""

    @abstractmethod
    def collate(self, items: list[Any]) -> Any:
        """Make a batch of items."""

    @abstractmethod
    def inputs(self, batch: Any, to_device: ToDevice) -> tuple[Any, ...]:
        """Return the arguments of the network's forward pass in training."""

    @abstractmethod
    def loss(
        self, forward: Callable[..., Any], batch: Any, to_device: ToDevice
    ) -> tuple[Tensor, list[float]]:
        """Compute the loss of a batch, and the values named in `logged`."""

    @abstractmethod
    def format_logged(self, values: list[float]) -> list[str]:
        """Format the values of `loss` for the progress bar."""

    @abstractmethod
    def validate(
        self,
        network: Network,
        *,
        workers: int,
        dtype: torch.dtype | None,
        on_item: Callable[[int], None],
    ) -> tuple[dict[str, float], int]:
        """Compute metrics in percent, and count the items that cannot be read.

        Raises:
            PeerLeft: another process ended the validation early.
        """

    @abstractmethod
    def format_metrics(self, scores: dict[str, float]) -> str:
        """Format the metrics for the console."""
