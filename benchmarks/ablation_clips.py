"""The GRID clips of the ablations: mouths in memory, words and sentences as batches."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnet.data.video.reader import decode_all
from nonlocalnet.runtime.atomic import write_atomically

TOP, LEFT, HEIGHT, WIDTH = 48, 28, 40, 56  # the mouth in the 112 x 112 frames
CROP = 32, 48
DECODED, FRAMES, WORD_FRAMES = 74, 72, 16
MEAN, STD = 128.0, 50.0  # of pixels

SLOTS = {
    "command": range(4),
    "color": range(4, 8),
    "preposition": range(8, 12),
    "letter": range(12, 37),
    "digit": range(37, 47),
    "adverb": range(47, 51),
}


@dataclass(frozen=True)
class Data:
    """The clips in memory.

    Attributes:
        frames: (N, 74, 3, 40, 56) uint8.
        labels: (N, 6), the six words of each clip among 51.
        first, last: (N, 6), frames in which a word begins and ends.
        split: of each clip.
    """

    frames: Tensor
    labels: Tensor
    first: Tensor
    last: Tensor
    split: list[str]

    def of(self, split: str) -> Tensor:
        """Return the indices of a split's clips."""
        return torch.tensor([i for i, name in enumerate(self.split) if name == split])

    def cut(self, clip: int, first: int, count: int, generator: torch.Generator | None) -> Tensor:
        """Return (T, 3, H, W) frames, cut at random or in the middle."""
        first = min(max(first, 0), DECODED - count)
        room = HEIGHT - CROP[0], WIDTH - CROP[1]
        top, left = (n // 2 if generator is None else random(0, n, generator) for n in room)
        return self.frames[
            clip, first : first + count, :, top : top + CROP[0], left : left + CROP[1]
        ]


def read(grid: Path, work: Path) -> Data:
    """Decode the mouths, once."""
    with (grid / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = [line.split()[1] for line in (grid / "classes.txt").read_text().splitlines()]
    decoded = work / "mouths.pt"
    if not decoded.exists():
        area = slice(TOP, TOP + HEIGHT), slice(LEFT, LEFT + WIDTH)
        clips = [decode_all(grid / row["file"], max_frames=DECODED)[..., *area] for row in rows]
        save(decoded, torch.stack(clips))

    def column(read: Callable[[dict[str, str], str], float]) -> Tensor:
        return torch.tensor([[read(row, slot) for slot in SLOTS] for row in rows])

    return Data(
        torch.load(decoded),
        column(lambda row, slot: classes.index(f"{slot}:{row[slot]}")),
        column(lambda row, slot: float(row[f"{slot}_start"])),
        column(lambda row, slot: float(row[f"{slot}_end"])),
        [row["split"] for row in rows],
    )


def save(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda place: torch.save(value, place))


def random(low: int, high: int, generator: torch.Generator) -> int:
    """Draw an integer, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def stacked(clips: Sequence[Tensor]) -> Tensor:
    """Make the input of a network of clips (T, 3, H, W)."""
    return channels_last((torch.stack(list(clips)).movedim(2, 1).float() - MEAN) / STD)


def channels_last(x: Tensor) -> Tensor:
    return x.float().contiguous(memory_format=torch.channels_last_3d)


def word_batches(data: Data, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw the words of all training clips in turn, cut at random."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.cartesian_prod(data.of("train"), torch.arange(len(SLOTS)))
    while True:
        for part in words[torch.randperm(len(words), generator=generator)].split(32):
            clips = [
                data.cut(
                    i, word_start(data, i, slot) + random(-2, 2, generator), WORD_FRAMES, generator
                )
                for i, slot in part.tolist()
            ]
            yield stacked(clips), data.labels[part[:, 0], part[:, 1]]


def word_start(data: Data, clip: int, slot: int) -> int:
    """Return the first of the frames around a word."""
    return round(float(data.first[clip, slot] + data.last[clip, slot]) / 2) - WORD_FRAMES // 2


def right_words(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell for each slot whether its right word scores highest: (N, 51), (N, 6) -> (N, 6)."""
    best = [logits[:, words].argmax(1) + words.start for words in map(as_slice, SLOTS.values())]
    return torch.stack(best, 1) == labels


def as_slice(words: range) -> slice:
    return slice(words.start, words.stop)


def percent(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 2)


def sentence_batches(
    features: Tensor, target: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw all training clips in turn, each in one of its crops."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(len(target), generator=generator).split(16):
            views = torch.randint(0, len(features), part.shape, generator=generator)
            if len(part) == 16:
                yield channels_last(features[views, part]), target[part]


def unpacked(right: str) -> Tensor:
    """Return (N, 6) booleans of the text in the results."""
    return torch.tensor([letter == "1" for letter in right]).view(-1, len(SLOTS))
