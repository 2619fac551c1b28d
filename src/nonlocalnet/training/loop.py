"""The training loop."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nonlocalnet.data.video import VideoDataset
from nonlocalnet.evaluation.multiview import autocast, evaluate
from nonlocalnet.models.registry import create_model
from nonlocalnet.models.video_resnet import VideoResNet
from nonlocalnet.models.weights import Start, WeightsInfo, load_weights, read_start, save_weights
from nonlocalnet.runtime.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from nonlocalnet.runtime.device import pick_device, pick_precision
from nonlocalnet.runtime.log import Bar, MetricsLog, RunningMean, status
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.inputs import find_start, normalize_as, read_batches, read_data
from nonlocalnet.training.optim import learning_rate, make_optimizer
from nonlocalnet.training.tasks import Task, make_task

WINDOW = 50  # iterations that the shown loss and accuracy are averaged over


@dataclass
class Result:
    """How a run ended: the iteration reached, the last validation's scores, the weights file."""

    iteration: int
    scores: dict[str, float]
    weights: Path
    interrupted: bool


def train(config: TrainConfig) -> Result:
    """Train a network on video files, as the paper does: SGD with Nesterov, step schedule.

    Writes config.json, metrics.jsonl, checkpoint.pt and model.safetensors to `config.out`. An
    interrupt (Ctrl-C, SIGTERM) ends the run after the current update with all of them in place;
    `resume` goes on from there.

    Raises:
        ValueError: options or labels that do not fit each other or the data.
        FileNotFoundError: data, weights or checkpoint that are not there.
        RuntimeError: too many videos cannot be read, or the loss is not finite.

    Source: paper, section 4, and the official configs. Unlike the official code, whose validation
    clips are random crops, ours are the middle clip and crop.
    """
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    dtype = pick_precision(config.precision, device)
    training, validation, classes = read_data(config)
    task = make_task(training.multi_label)
    status.print(
        f"{len(training)} training videos, {len(classes)} classes"
        f"{', many labels a video' if training.multi_label else ''}"
    )
    path = find_start(config)
    start = Start() if path is None else read_start(path)
    normalize_as(start, training, validation)
    model = create_model(
        config.model,
        num_classes=len(classes),
        clip=config.clip,
        crop=config.crop,
        **config.model_options(),
    )
    if path is not None and not config.resume:
        report = load_weights(model, path, new_classifier=start.classes != classes, new_blocks=True)
        status.print(f"weights from {path} ({report.origin}): {report}", soft_wrap=True)
    # the layout that convolutions are fastest in; on a CPU too (docs/results.md)
    model.to(device).to(memory_format=torch.channels_last_3d)
    optimizer = make_optimizer(
        model, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    run = _Run(config, model, optimizer, task, classes, start, validation, device, dtype)
    run.start()
    return run.fit(training)


@dataclass
class _Run:
    """The state of a run and what is done with it between updates."""

    config: TrainConfig
    model: VideoResNet
    optimizer: torch.optim.Optimizer
    task: Task
    classes: list[str]
    input: Start
    validation: VideoDataset | None
    device: torch.device
    dtype: torch.dtype | None
    iteration: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = MetricsLog(self.config.out / "metrics.jsonl")
        self.checkpoint = self.config.out / "checkpoint.pt"
        self.weights = self.config.out / "model.safetensors"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def start(self) -> None:
        """Take up the checkpoint, or make sure that no run is overwritten."""
        if self.config.resume:
            state = load_checkpoint(self.checkpoint)
            if state["config"] != self.model.config:
                raise ValueError(
                    f"{self.checkpoint} is of another network: {state['config']}; "
                    f"asked for: {self.model.config}"
                )
            # earlier runs did not say: they had the default
            if state.get("input", [Start().mean, Start().std]) != [self.input.mean, self.input.std]:
                raise ValueError(
                    f"{self.checkpoint} and {self.weights} are not of one run: they normalise the "
                    "input differently"
                )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.iteration, self.scores = state["iteration"], state["scores"]
            self.log.truncate(self.iteration)
            torch.manual_seed(self.config.seed + self.iteration)  # not the same draws again
            status.print(f"resumed at iteration {self.iteration}")
        elif self.checkpoint.exists():
            raise ValueError(
                f"{self.config.out} holds a run already: choose another folder, or pass --resume"
            )
        self.config.out.mkdir(parents=True, exist_ok=True)
        self.log.path.touch()
        if self.iteration < self.config.iterations:  # else these options change nothing
            self.config.save(self.config.out / "config.json")

    def fit(self, training: VideoDataset) -> Result:
        """Update until the last iteration or an interrupt; save what there is."""
        config = self.config
        batches = read_batches(
            training,
            batch_size=config.batch_size,
            seed=config.seed,
            start=self.iteration * config.batch_size,
            workers=config.workers,
            pin_memory=self.device.type == "cuda",
        )
        loss_mean, rate_mean = RunningMean(WINDOW), RunningMean(WINDOW)
        hit_mean = RunningMean(WINDOW)
        started = time.monotonic()
        with Bar(config.model, config.iterations, self.iteration) as bar, _Interrupt() as interrupt:
            while self.iteration < config.iterations and not interrupt.asked:
                clips, target, _ = next(batches)
                loss, logits = self._update(clips, target)
                loss_mean.add(loss)
                if not self.task.multi_label:
                    hit_mean.add((logits.argmax(1).cpu() == target).float().mean().item())
                now = time.monotonic()
                rate_mean.add(len(clips) / (now - started))
                started = now
                accuracy = "" if self.task.multi_label else f"  accuracy {hit_mean.mean:.1%}"
                bar.advance(1, f"loss {loss_mean.mean:.3f}{accuracy}  {rate_mean.mean:.1f} clips/s")
                if self.iteration % config.log_every == 0:
                    self.log.write(
                        "train",
                        iteration=self.iteration,
                        loss=loss_mean.mean,
                        accuracy=100 * hit_mean.mean,
                        lr=self._rate(self.iteration - 1),
                        clips_per_second=rate_mean.mean,
                        unreadable=len(training.bad_indices()),
                    )
                last = self.iteration == config.iterations
                if last or self.iteration % config.eval_interval == 0:
                    self._validate()
                    started = time.monotonic()
                if last or self.iteration % config.checkpoint_interval == 0:
                    self.save()
        if interrupt.asked:
            self.save()
            status.print(
                f"interrupted at iteration {self.iteration}; everything is in {config.out}, "
                f"--resume goes on"
            )
        if bad := training.bad_indices():
            status.print(f"{len(bad)} training videos could not be read and were replaced")
        return Result(self.iteration, self.scores, self.weights, interrupt.asked)

    def _rate(self, iteration: int) -> float:
        config = self.config
        return learning_rate(iteration, config.lr, config.steps, warmup=config.warmup)

    def _update(self, clips: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.iteration)
        self.model.train()
        with autocast(self.device, self.dtype):
            logits = self.model(
                clips.to(self.device, non_blocking=True, memory_format=torch.channels_last_3d)
            )
        loss = self.task.loss(logits.float(), target.to(self.device, non_blocking=True))
        value = loss.item()
        if not value < float("inf"):
            raise RuntimeError(
                f"the loss is {value} at iteration {self.iteration}: lower --lr "
                f"(now {self.config.lr:g}); the last checkpoint is in {self.config.out}"
            )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1
        return value, logits.detach()

    def _validate(self) -> None:
        if self.validation is None:
            return
        predictions = evaluate(
            self.model,
            self.validation,
            multi_label=self.task.multi_label,
            workers=self.config.workers,
            dtype=self.dtype,
        )
        self.scores = self.task.score(predictions.probabilities, predictions.target)
        unreadable = len(predictions.unreadable)
        self.log.write("val", iteration=self.iteration, **self.scores, unreadable=unreadable)
        text = "  ".join(f"{name} {value:.1f}" for name, value in self.scores.items())
        status.print(f"iteration {self.iteration}: validation {text}")

    def save(self) -> None:
        """Write the checkpoint and the weights, each whole or not at all."""
        info = WeightsInfo(
            config=self.model.config,
            classes=self.classes,
            multi_label=self.task.multi_label,
            short_side=self.config.short_side[0],
            mean=self.input.mean,
            std=self.input.std,
            facts={"iteration": self.iteration, "validation": self.scores},
        )
        write_atomically(self.weights, lambda path: save_weights(self.model, path, info))
        state: dict[str, Any] = {
            "config": self.model.config,
            "input": [self.input.mean, self.input.std],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
            "scores": self.scores,
        }
        save_checkpoint(self.checkpoint, state)


class _Interrupt:
    """Turn the first SIGINT or SIGTERM into a flag; the second SIGINT is an ordinary one."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: signals go elsewhere
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._before[number])
