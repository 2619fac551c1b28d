"""Train a small 1-D network without and with non-local blocks to compare far-apart positions.

The task: a sequence of symbols, two of which are marked, far apart. At each mark, is the symbol at
the other mark the same? The plain network sees 9 symbols at a time and never both marks: more
training cannot lift it above chance, 50%. One call of `nl.add_non_local` gives it two blocks,
after which every position sees every other one.

Prints both accuracies on sequences that neither network was trained on.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

import nonlocalnet as nl

SYMBOLS, LENGTH, APART = 4, 32, 12
WIDTH = 32


@dataclass(frozen=True)
class Options:
    """Options of the example."""

    iterations: int = 600
    """Updates of each network, 64 sequences each."""
    lr: float = 1e-2
    """Highest learning rate of Adam; it falls to zero."""
    seed: int = 0
    """Of the weights and of the sequences."""
    smoke: bool = False
    """A few updates, to see that it runs."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    plain = nn.Sequential(layer(SYMBOLS + 1), layer(WIDTH), layer(WIDTH), layer(WIDTH))
    plain.append(nn.Conv1d(WIDTH, 2, 1))
    non_local = copy.deepcopy(plain)  # the same weights at start
    # scale=None, the paper's text, makes sharper weights than the default, and learns faster here
    example, _, _ = sequences(1, torch.Generator())
    nl.add_non_local(non_local, ["1", "2"], example=example, scale=None)
    iterations = 5 if options.smoke else options.iterations
    for name, network in (("without blocks", plain), ("with 2 blocks", non_local)):
        train(network, iterations, options.lr, options.seed)
        print(f"{name:14}  accuracy {accuracy(network):.1%}")


def layer(channels: int) -> nn.Sequential:
    """See one neighbor on each side: four such layers see 9 symbols."""
    return nn.Sequential(nn.Conv1d(channels, WIDTH, 3, padding=1), nn.BatchNorm1d(WIDTH), nn.ReLU())


def sequences(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make sequences: (B, symbols + 1, T) one-hot with the marks, marked positions (B, 2), labels.

    The label, (B,), is 1 for half of the sequences: both marked symbols are the same.
    """
    symbols = torch.randint(SYMBOLS, (count, LENGTH), generator=rng)
    first = torch.randint(LENGTH - APART, (count,), generator=rng)
    room = torch.rand(count, generator=rng) * (LENGTH - APART - first)
    marks = torch.stack([first, first + APART + room.long()], dim=1)
    same = torch.randint(2, (count,), generator=rng)
    rows = torch.arange(count)
    other = torch.randint(1, SYMBOLS, (count,), generator=rng) * (1 - same)
    symbols[rows, marks[:, 1]] = (symbols[rows, marks[:, 0]] + other) % SYMBOLS
    marked = torch.zeros(count, 1, LENGTH).scatter_(2, marks.unsqueeze(1), 1)
    x = torch.cat([F.one_hot(symbols, SYMBOLS).transpose(1, 2).float(), marked], dim=1)
    return x, marks, same


def at_marks(network: nn.Module, x: Tensor, marks: Tensor) -> Tensor:
    """Give the scores at the two marks, (B, 2 classes, 2 marks)."""
    return network(x).gather(2, marks.unsqueeze(1).expand(-1, 2, -1))


def train(network: nn.Module, iterations: int, lr: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, iterations)
    network.train()
    for _ in range(iterations):
        x, marks, same = sequences(64, rng)
        loss = F.cross_entropy(at_marks(network, x, marks), same.unsqueeze(1).expand(-1, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    x, marks, same = sequences(4096, torch.Generator().manual_seed(123456))
    right = at_marks(network.eval(), x, marks).argmax(1) == same.unsqueeze(1)
    return right.float().mean().item()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
