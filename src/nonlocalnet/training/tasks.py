"""What is learned from what: the part of a run in which clips and images differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from nonlocalnet.errors import FileError
from nonlocalnet.networks.registry import Network

if TYPE_CHECKING:
    from nonlocalnet.data.dataset import VideoDataset
    from nonlocalnet.detection.dataset import CocoDataset

FIRST = 5  # validation items of which one must be readable
Data = TypeVar("Data", bound="VideoDataset | CocoDataset")
Send = Callable[[Tensor], Tensor]  # to the device, in the layout that is fastest there


class Task(ABC, Generic[Data]):
    """Data, a loss, and how the network is judged.

    Attributes:
        unit: what an update takes, "clips" or "images".
        items: what the data sets have, "videos" or "images".
        numbers: names of what `loss` gives beside the loss.
        multi_label: whether a video has many labels.
        classes: names in label order.
        training: what is learned from.
        validation: what the network is judged on; None is nothing.
        data: a hash of names and labels of the training set.
        options: arguments of the network that the data decide, beside its classes.
    """

    unit: str
    items: str
    numbers: tuple[str, ...]
    multi_label: bool
    classes: list[str]
    training: Data
    validation: Data | None
    data: str
    options: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __str__(self) -> str:
        """Say how much there is to learn from."""

    def check_readable(self) -> None:
        """Raise a ValueError where validation would fail, hours later."""
        if self.validation is None:
            return
        errors: list[FileError] = []
        for index in range(min(FIRST, len(self.validation))):
            try:
                self.validation[index]
                return
            except FileError as error:
                errors.append(error)
        what = f"the first {len(errors)} validation {self.items}"
        raise ValueError(f"{what} cannot be read: {errors[0]}")

    @abstractmethod
    def identify(self, data: Data) -> str:
        """Hash what tells a data set from others, for weights to say what they come from."""

    @abstractmethod
    def collate(self, items: list[Any]) -> Any:
        """Make a batch."""

    @abstractmethod
    def inputs(self, batch: Any, send: Send) -> tuple[Any, ...]:
        """Give what the network takes in training."""

    @abstractmethod
    def loss(
        self, forward: Callable[..., Any], batch: Any, send: Send
    ) -> tuple[Tensor, list[float]]:
        """Compute the loss of a batch, and the numbers."""

    @abstractmethod
    def words(self, numbers: list[float]) -> list[str]:
        """Say the numbers on the progress bar."""

    @abstractmethod
    def validate(
        self,
        network: Network,
        *,
        workers: int,
        dtype: torch.dtype | None,
        on_item: Callable[[int], None],
    ) -> tuple[dict[str, float], int]:
        """Give scores in percent, and how many items could not be read.

        Raises:
            PeerLeft: another process left.
        """

    @abstractmethod
    def score_words(self, scores: dict[str, float]) -> str:
        """Say the scores on the console."""
