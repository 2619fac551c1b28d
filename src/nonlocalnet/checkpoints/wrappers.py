"""What wrappers of networks put before and into names, taken off by rule and told.

A network is often saved as a part of something else: of DistributedDataParallel, of a compiled or
sharded module, of Lightning's module, of a running average. Its names are then the network's own
behind a prefix. One place knows all of them, for every layout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.files import Checkpoint

# Wherever a module was wrapped: torch.compile, FSDP, activation checkpointing.
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Before every name: what the attribute is called that holds the network.
BEFORE = (
    "module.",  # DataParallel, DistributedDataParallel, AveragedModel, DeepSpeed
    "_forward_module.",  # Lightning Fabric
    "model.",  # modules of Lightning, by habit; so the next two
    "net.",
    "network.",
)
AVERAGES = ("ema.", "ema_model.", "model_ema.", "averaged_model.", "swa_model.", "average_model.")
BESIDE = {"n_averaged": "the number of networks that an average is of"}


@dataclass
class Wrapping:
    """What was taken off a checkpoint's names.

    Attributes:
        originals: name without it -> the name in the file.
        ignored: names of the file that are no part of the network, and why.
        taken_off: what was taken off, in the order of the names.
    """

    originals: dict[str, str]
    ignored: dict[str, str] = field(default_factory=dict)
    taken_off: list[str] = field(default_factory=list)

    def tell(self, converted: Converted) -> Converted:
        """Put the file's own names in the place of the bare ones, and say what was taken off."""
        of = self.originals
        converted.names = {ours: of.get(name, name) for ours, name in converted.names.items()}
        converted.ignored = {of.get(name, name): why for name, why in converted.ignored.items()}
        converted.ignored |= self.ignored
        converted.unknown = [of.get(name, name) for name in converted.unknown]
        if self.taken_off:
            said = repr("".join(self.taken_off))
            converted.notes.append(f"{said} was taken off its names, as wrappers put it there")
        return converted


def unwrap(checkpoint: Checkpoint) -> tuple[Checkpoint, Wrapping]:
    """Give a checkpoint the names that its network has in itself.

    A prefix of `BEFORE` or `AVERAGES` goes where all tensors have it, again and again; what is in
    `INSIDE` goes anywhere. Weights beside a running average of them are taken, the average is not.
    """
    names = {name: name for name in checkpoint.entries if name not in BESIDE}
    wrapping = Wrapping({})
    for part in INSIDE:
        without = {bare.replace(part, ""): name for bare, name in names.items()}
        if len(without) == len(names) and "" not in without and list(without) != list(names):
            names = without
            wrapping.taken_off.append(part)
    while names:
        groups = _groups(names)
        averages = [prefix for prefix in groups if prefix in AVERAGES]
        own = [prefix for prefix in groups if prefix not in averages]
        if "" in groups or len(own) > 1 or (not own and len(averages) > 1):
            break
        prefix = (own or averages)[0]
        for other in groups:
            if other != prefix:
                why = "a running average of the weights, which are there as well"
                wrapping.ignored |= dict.fromkeys(groups[other].values(), why)
        names = groups[prefix]
        wrapping.taken_off.append(prefix)
    if not wrapping.taken_off:
        return checkpoint, Wrapping({}, dict(checkpoint.beside))
    wrapping.originals = names
    # in the order in which they are before a name
    first = next(iter(names.values()))
    wrapping.taken_off.sort(key=lambda part: first.find(part) % (len(first) + 1))
    wrapping.ignored |= checkpoint.beside
    wrapping.ignored |= {name: why for name, why in BESIDE.items() if name in checkpoint.entries}
    entries = {bare: checkpoint.entries[name] for bare, name in names.items()}
    return replace(checkpoint, entries=entries), wrapping


def _groups(names: dict[str, str]) -> dict[str, dict[str, str]]:
    """Sort names by the known prefix that they begin with, "" where it is none."""
    groups: dict[str, dict[str, str]] = {}
    for bare, name in names.items():
        prefix = next((p for p in (*BEFORE, *AVERAGES) if bare.startswith(p) and bare != p), "")
        groups.setdefault(prefix, {})[bare.removeprefix(prefix)] = name
    return groups


def stray(names: Iterable[str]) -> str:
    """Say which few names lack a prefix that the others have; "" where there is nothing to say.

    >>> stray(["model.conv1.weight", "model.fc.weight", "loss.weight"])
    "'model.' is before all of its names but loss.weight"
    """
    groups = _groups({name: name for name in names})
    without = groups.pop("", {})
    if len(groups) != 1 or not 0 < len(without) < len(next(iter(groups.values()))):
        return ""
    first = list(without)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return f"{next(iter(groups))!r} is before all of its names but {', '.join(first[:3])}{more}"
