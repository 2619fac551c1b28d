"""Set up a run: check its options, read its data, and create or resume its network."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nonlocalnet.checkpoints.load import Pretrained, load_weights, read_pretrained
from nonlocalnet.checkpoints.report import LoadReport, Unfit, part_of
from nonlocalnet.checkpoints.zoo import find_weights
from nonlocalnet.errors import option
from nonlocalnet.networks.registry import Network, create_model, family_of
from nonlocalnet.networks.rows import DEPTHS
from nonlocalnet.options import check_paths
from nonlocalnet.runtime.atomic import remove_leftovers
from nonlocalnet.runtime.device import meta_device
from nonlocalnet.runtime.distributed import broadcast, fail_together, rank, world_size
from nonlocalnet.runtime.log import MetricsLog, status
from nonlocalnet.training.checkpoints import Checkpoints
from nonlocalnet.training.config import FREE, TrainConfig
from nonlocalnet.training.tasks import Task


@dataclass
class RunSetup:
    """The network with its weights, its task, and the checkpoint to resume from, if any."""

    network: Network
    task: Task
    start: Pretrained
    saved: dict[str, Any] | None


def check_config(config: TrainConfig) -> None:
    """Refuse, before any file is read, what cannot be trained.

    Raises:
        ValueError, FileNotFoundError: the message says what to choose instead.
    """
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"{config.out} is a file: {option('out')} names the folder of the run")
    parts = world_size() * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided evenly among {world_size()} "
            f"processes in {config.accumulate} parts each: choose a multiple of {parts}"
        )
    check_paths(config)
    options = config.model_options()
    if family_of(config.model).takes == "videos":
        options |= {"clip": config.clip, "crop": config.crop}
    with meta_device():
        create_model(config.model, **options)


def set_up(config: TrainConfig, checkpoints: Checkpoints) -> RunSetup:
    """Read the data, and the checkpoint of the run or the weights to start from.

    Raises:
        ValueError: the folder holds a run, and `resume` is not set; its options or data are
            different; options or labels contradict each other.
        FileNotFoundError: data or weights do not exist.
    """
    with fail_together():
        saved = _find_state(config, checkpoints)
    saved = broadcast(saved)
    with fail_together():
        return _set_up(config, saved)


def _find_state(config: TrainConfig, checkpoints: Checkpoints) -> dict[str, Any] | None:
    """Read the state to resume from, in the first process."""
    weights = config.out / "model.safetensors"
    if (checkpoints.files() or weights.exists()) and not config.resume:
        raise ValueError(
            f"{config.out} holds a run already: choose another folder, or pass "
            f"{option('resume', True)}"
        )
    return checkpoints.load() if rank() == 0 else None


def _set_up(config: TrainConfig, saved: dict[str, Any] | None) -> RunSetup:
    """Set up a run that starts from a state, if there is one."""
    weights = config.out / "model.safetensors"
    if saved is not None:
        config.check_goes_on(_saved_config(config, saved))
    elif weights.exists():
        raise ValueError(
            f"{config.out} has weights but no checkpoints to resume from: choose another folder, "
            f"with {option('init', weights)} to start from these weights"
        )
    elif config.resume:
        status.print(f"there is no run in {config.out} yet: starting one", soft_wrap=True)
    path = find_init(config) if saved is None else None
    torch.manual_seed(config.seed)
    task: Task = family_of(config.model).load("task")(config)
    updates = f"{config.iterations:,} updates of {config.batch_size} {task.unit}"
    status.print(f"{task}; {updates}", soft_wrap=True)
    task.check_readable()
    if saved is not None and saved["videos"] != task.fingerprint:
        raise ValueError(
            f"the training {task.items} or their labels in {config.data} are not those that "
            f"{config.out} was started with"
        )
    start = Pretrained()
    if saved is not None:
        start = Pretrained(*map(tuple, saved["input"]))
    elif path is not None:
        start = read_pretrained(path)
    elif config.init == "kinetics400":
        start = Pretrained(*family_of(config.model).load("pretrained").read_input(config.model))
    network = make_network(config, task, start)
    if saved is None and config.init == "kinetics400":
        new_classifier = start.classes != task.classes
        filled = (
            family_of(config.model)
            .load("pretrained")
            .fill(network, config.model, new_classifier=new_classifier)
        )
        status.print(filled, soft_wrap=True)
    if path is not None:
        new_classifier = start.classes != task.classes or bool(task.options)
        report = _load_init(network, path, config, new_classifier=new_classifier)
        new_parts = [
            f"{part} ({sum(row.note == f'a new {part}' for row in report.rows)} tensors)"
            for part in config.init_missing
        ]
        random = f"; at random: {', '.join(new_parts)}" if new_parts else ""
        status.print(f"weights from {path} ({report.origin}): {report}{random}", soft_wrap=True)
    start = dataclasses.replace(task.input_of(network, start), classes=task.classes)
    return RunSetup(network, task, start, saved)


def make_network(config: TrainConfig, task: Task, start: Pretrained) -> Network:
    """Create the network of a run, with new weights; every run gets its network here."""
    return task.make_network(config, start)


def find_init(config: TrainConfig) -> Path | None:
    """Find the file of the weights to start from, and download it if necessary.

    Raises:
        ValueError: "imagenet" for another network than ResNet-50 and -101.
        FileNotFoundError: neither a file nor a release.
        OSError: the download failed; the message says what to start from instead.
    """
    if config.init == "kinetics400" and "pretrained" not in family_of(config.model).places:
        raise ValueError(
            f"{config.model} has no Kinetics weights of its own; pass {option('init', 'none')}, or "
            f"{option('init', 'FILE')}"
        )
    if config.init in ("none", "kinetics400"):
        return None
    weights = config.init
    if weights == "imagenet":
        depth = next((name for name in DEPTHS if f"_{name}" in config.model), None)
        if not family_of(config.model).from_images:
            raise ValueError(
                f"{config.model} cannot start from an image classifier, whose convolutions read "
                f"fewer channels; pass {option('init', 'none')}, or {option('init', 'FILE')}"
            )
        if depth is None:
            raise ValueError(
                f"{config.model} has no ImageNet weights, ResNet-50 and -101 have; pass "
                f"{option('init', 'none')}, or {option('init', 'FILE')}"
            )
        weights = f"resnet{depth[1:]}_imagenet"
    try:
        path = find_weights(weights)
    except OSError as error:
        raise type(error)(
            f"{error}; or start from a file, {option('init', 'FILE')}, or from random weights, "
            f"{option('init', 'none')}"
        ) from None
    if weights == config.init and not path.is_file():
        raise FileNotFoundError(
            f"no weights to start from: {config.init} is neither a file nor a release "
            "(nonlocalnet zoo)"
        )
    return path


def find_config(out: Path) -> TrainConfig | None:
    """Read the options of the run in a folder, if there is one.

    Options that change the result are those of the newest state, whose checksum shows damage;
    those that a run may change are read from config.json, unless it is missing or damaged.

    Raises:
        ValueError: no state can be read; or there is none, and config.json is damaged.
    """
    file, saved = out / "config.json", Checkpoints(out / "checkpoints", 1).load(quiet=True)
    if saved is None or "config" not in saved:  # none yet, or one of an earlier version
        return TrainConfig.find(out)
    kept = dataclasses.replace(TrainConfig.from_json(saved["config"]), out=out)
    try:
        found, what = TrainConfig.find(out), "is missing"
        if found is not None:
            what = f"says {', '.join(found.differences(kept))}"
    except ValueError:
        found, what = None, "is damaged"
    if int(os.environ.get("RANK", 0)) == 0 and (found is None or found.differences(kept)):
        whose = f"the state of iteration {saved['iteration']}"
        status.print(f"{file} {what}: the options of {whose} are taken", soft_wrap=True)
    if found is None:
        return kept
    return dataclasses.replace(kept, **{name: getattr(found, name) for name in FREE})


def restore_log(log: MetricsLog, saved: dict[str, Any] | None) -> None:
    """Restore metrics.jsonl as it was when a state was written; empty it for a new run.

    Temporary files that a killed process left in its folder are deleted.
    """
    remove_leftovers(log.path.parent)
    if saved is not None and "log" in saved:
        if not log.restore(saved["log"].splitlines()):
            status.print(
                f"{log.path} lacked lines or had others: it is written again as the state of "
                f"iteration {saved['iteration']} has it",
                soft_wrap=True,
            )
        return
    kept = {} if saved is None else {"train": saved["iteration"], "val": saved["validated"]}
    if damaged := log.truncate(**kept):
        status.print(f"{log.path}: {damaged} damaged lines are left out", soft_wrap=True)


def _saved_config(config: TrainConfig, saved: dict[str, Any]) -> TrainConfig:
    if "config" in saved:
        return TrainConfig.from_json(saved["config"])
    before = TrainConfig.find(config.out)
    if before is None:
        raise ValueError(
            f"{config.out} lacks config.json, and its checkpoints are of an earlier version, which "
            "did not keep the options: write config.json again, with what `nonlocalnet train "
            "--print-config` and the same options print"
        )
    return before


def _load_init(
    network: Network, path: Path, config: TrainConfig, *, new_classifier: bool
) -> LoadReport:
    """Load the weights to start from.

    Raises:
        ValueError: as `load_weights`; if stages are missing, the message says how to start them
            with random weights.
    """
    for part in config.init_missing:
        if not any(part_of(key, [part]) for key in network.state_dict()):
            stages = {stage for key in network.state_dict() if (stage := _stage(key))}
            raise ValueError(
                f"{config.model} has no part {part!r} for {option('init_missing')}; it has "
                f"{', '.join(sorted(stages))}"
            )
    try:
        return load_weights(
            network,
            path,
            new_classifier=new_classifier,
            new_blocks=True,
            new_parts=config.init_missing,
        )
    except Unfit as error:
        missing = [row for row in error.report.problems if row.outcome == "missing"]
        stages = sorted({_stage(row.ours or "") or "" for row in missing})
        if error.report.conflicts or len(missing) < len(error.report.problems) or "" in stages:
            raise  # the file is for another network
        names = (*config.init_missing, *stages)
        raise ValueError(
            f"{path} lacks {len(missing)} tensors of {' and '.join(stages)}: pass "
            f"{option('init_missing', names)} to start with random numbers there, or another file "
            f"as {option('init')}"
        ) from None


def _stage(key: str) -> str | None:
    """Return the stage of a tensor: res2 ..., of a detector layer1 ..."""
    found = re.search(r"(?:^|\.)(res\d|layer\d)\.", key)
    return found and found[1]
