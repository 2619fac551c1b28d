"""How a run begins or goes on: what is there, what fits, what it starts from."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nonlocalnet.checkpoints.load import Start, load_weights, read_start
from nonlocalnet.checkpoints.report import LoadReport, Unfit, part_of
from nonlocalnet.detection.networks import DETECTORS, is_detector
from nonlocalnet.errors import option
from nonlocalnet.networks.registry import Network, create_model
from nonlocalnet.runtime.atomic import remove_leftovers
from nonlocalnet.runtime.distributed import rank, share, size
from nonlocalnet.runtime.log import MetricsLog, status
from nonlocalnet.training.checkpoints import Checkpoints
from nonlocalnet.training.classification import Classification
from nonlocalnet.training.config import FREE, TrainConfig
from nonlocalnet.training.inputs import find_start, fingerprint, read_coco, read_data
from nonlocalnet.training.tasks import Task

SCALE_STEP = 32  # pixels between the short sides that images are resized to in training


@dataclass
class Beginning:
    """The network, filled, what it learns, and the checkpoint to go on from, if there is one."""

    network: Network
    task: Task
    start: Start
    saved: dict[str, Any] | None


def check(config: TrainConfig) -> None:
    """Refuse, before anything is read, what cannot be trained.

    Raises:
        ValueError, FileNotFoundError: it says what to choose instead.
    """
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"{config.out} is a file: {option('out')} names the folder of the run")
    if config.batch_size % (size() * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared evenly by {size()} processes in "
            f"{config.accumulate} parts each: choose a multiple of {size() * config.accumulate}"
        )
    for source in (config.data, config.val):
        if source is not None and not source.exists():
            raise FileNotFoundError(f"no data at {source}: name a data set, a folder or a list")
    if config.look is not None and not config.look.is_file():
        raise FileNotFoundError(f"no video at {config.look}: {option('look')} names one file")
    with torch.device("meta"):
        create_model(config.model, **_input_size(config), **config.model_options())


def begin(config: TrainConfig, checkpoints: Checkpoints) -> Beginning:
    """Read what there is: the run's own checkpoint, or the weights to start from; and the data.

    Raises:
        ValueError: the folder holds a run that is not to go on; or one with other options or
            data; options or labels that do not fit each other.
        FileNotFoundError: data or weights that are not there.
    """
    weights = config.out / "model.safetensors"
    if (checkpoints.files() or weights.exists()) and not config.resume:
        raise ValueError(
            f"{config.out} holds a run already: choose another folder, or pass "
            f"{option('resume', True)}"
        )
    saved = share(checkpoints.load() if rank() == 0 else None)
    if saved is not None:
        config.check_goes_on(_began_with(config, saved))
    elif weights.exists():
        raise ValueError(
            f"the checkpoints of {config.out} are gone, its weights are there: choose another "
            f"folder, with {option('init', weights)} to start from them"
        )
    elif config.resume:
        status.print(f"there is no run in {config.out} yet: this one begins", soft_wrap=True)
    path = find_start(config) if saved is None else None
    torch.manual_seed(config.seed)
    task = _make_task(config)
    updates = f"{config.iterations:,} updates of {config.batch_size} {task.unit}"
    status.print(f"{task}; {updates}", soft_wrap=True)
    task.check_readable()
    if saved is not None and saved["videos"] != task.data:
        raise ValueError(
            f"the training {task.items} or their labels in {config.data} are not those that "
            f"{config.out} began with"
        )
    start = Start()
    if saved is not None:
        start = Start(*map(tuple, saved["input"]))
    elif path is not None:
        start = read_start(path)
    network = _make_network(config, task, start)
    if path is not None:
        fresh = start.classes != task.classes or bool(task.options)
        report = _load_start(network, path, config, new_classifier=fresh)
        fresh_parts = [
            f"{part} ({sum(row.note == f'a new {part}' for row in report.rows)} tensors)"
            for part in config.init_missing
        ]
        random = f"; at random: {', '.join(fresh_parts)}" if fresh_parts else ""
        status.print(f"weights from {path} ({report.origin}): {report}{random}", soft_wrap=True)
    if is_detector(network):  # its input may have been told with --set
        mean, std = (
            tuple(of) for of in (network.transform.image_mean, network.transform.image_std)
        )
        start = dataclasses.replace(start, mean=mean, std=std)
    return Beginning(network, task, dataclasses.replace(start, classes=task.classes), saved)


def find_config(out: Path) -> TrainConfig | None:
    """Read the options of the run in a folder, if there is one.

    What is part of the result is taken from the newest state, whose checksum tells of damage; what
    a run may change from config.json, unless that is missing or damaged.

    Raises:
        ValueError: no state can be read; or there is none, and config.json is damaged.
    """
    file, saved = out / "config.json", Checkpoints(out / "checkpoints", 1).load(quiet=True)
    if saved is None or "config" not in saved:  # not yet; or of an earlier version
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
    """Let metrics.jsonl hold what it did when a state was written; a new run's is empty.

    What a kill left half written in its folder is deleted.
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


def _began_with(config: TrainConfig, saved: dict[str, Any]) -> TrainConfig:
    if "config" in saved:
        return TrainConfig.from_json(saved["config"])
    before = TrainConfig.find(config.out)
    if before is None:
        raise ValueError(
            f"{config.out} lacks config.json, the options that its checkpoints were made with, and "
            "these are of an earlier version, without them: write it again, with what "
            "`nonlocalnet train --print-config` and the same options print"
        )
    return before


def _make_task(config: TrainConfig) -> Task:
    """Read the data that the network is for."""
    if config.model not in DETECTORS:
        training, validation, classes = read_data(config)
        return Classification(
            training,
            validation,
            classes,
            fingerprint(training.records),
            label_smoothing=config.label_smoothing,
            mixup=config.mixup,
        )
    from nonlocalnet.detection.task import Detection

    keypoints = DETECTORS[config.model].kind == "keypoint"
    return Detection(*read_coco(config, "person_keypoints" if keypoints else "instances"))


def _load_start(
    network: Network, path: Path, config: TrainConfig, *, new_classifier: bool
) -> LoadReport:
    """Fill the network with what it starts from.

    Raises:
        ValueError: as `load_weights`; where stages are missing, how to let them start at random.
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
            raise  # it is of another network
        names = (*config.init_missing, *stages)
        raise ValueError(
            f"{path} lacks {len(missing)} tensors of {' and '.join(stages)}: pass "
            f"{option('init_missing', names)} to start with random numbers there, or another file "
            f"as {option('init')}"
        ) from None


def _stage(key: str) -> str | None:
    """The stage that a tensor belongs to: res2 ..., a detector's layer1 ..."""
    found = re.search(r"(?:^|\.)(res\d|layer\d)\.", key)
    return found and found[1]


def _input_size(config: TrainConfig) -> dict[str, Any]:
    """Give what a network is told of its input; a detector takes any image."""
    return {} if config.model in DETECTORS else {"clip": config.clip, "crop": config.crop}


def _make_network(config: TrainConfig, task: Task, start: Start) -> Network:
    """Create the network, for input normalized as that of the weights to start from was."""
    options, classes = config.model_options(), len(task.classes)
    if isinstance(task, Classification):
        task.normalize_as(start.mean, start.std)
        return create_model(config.model, num_classes=classes, **_input_size(config), **options)
    colors: dict[str, Any] = {"image_mean": list(start.mean), "image_std": list(start.std)}
    for name, value in task.options.items():
        if options.setdefault(name, value) != value:
            given = option("set", f"{name}={options[name]}")
            raise ValueError(f"{given} does not fit the data, which have {value}")
    network = create_model(config.model, num_classes=classes, **colors | options)
    # in training each image at one of several sizes; .config, and so what is saved, has the test's
    low, high = config.short_side
    network.transform.min_size = (*range(low, high, SCALE_STEP), high)
    return network
