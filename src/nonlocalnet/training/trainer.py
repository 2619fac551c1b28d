"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.errors import option
from nonlocalnet.evaluation.metrics import main_metric
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.distributed import (
    PeerLeft,
    all_gather,
    all_reduce_sum,
    explain_peer_failure,
    fail_together,
    process_group,
    rank,
    world_size,
)
from nonlocalnet.runtime.log import Bar, MetricsLog, status
from nonlocalnet.training.checkpoints import Checkpoints, run_folder
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.learner import Learner
from nonlocalnet.training.loader import Batches, derive_seed, endless_batches
from nonlocalnet.training.optim import learning_rate
from nonlocalnet.training.progress import Progress
from nonlocalnet.training.setup import RunSetup, check_config, restore_log, set_up
from nonlocalnet.training.signals import Interrupted, StopSignal
from nonlocalnet.training.trackers import start_trackers

LEARNER_OPTIONS = (
    *("lr", "momentum", "weight_decay", "max_grad_norm", "precision", "ema"),
    *("parallel", "sync_norm", "recompute", "compile"),
)
WINDOW = 50  # iterations that the values of the progress bar are averaged over


@dataclass
class Result:
    """How a run ended: last iteration, metrics of the last validation, weights file."""

    iteration: int
    scores: dict[str, float]
    weights: Path
    interrupted: bool


def train(config: TrainConfig) -> Result:
    """Train a network on videos or on COCO as the paper does, with SGD and a step schedule.

    Writes config.json, metrics.jsonl, checkpoints/, model.safetensors and, with validation,
    best.safetensors to `config.out`. Ctrl-C or SIGTERM ends the run after the current update, and
    all of these files are written; a kill loses the updates since the last checkpoint. With
    `resume` the run continues, and computes what it would have computed without the interruption:
    all randomness depends on the seed and the iteration alone.

    Under torchrun the processes divide the clips or images of each update among them. The losses
    are the same, up to rounding, for any number of processes if norms are frozen or synchronized
    and there is no dropout. In a detector each process samples its own proposals for the loss.

    Args:
        config: options of the run.

    Returns:
        How the run ended.

    Raises:
        ValueError: options or labels contradict each other or the data; another process trains in
            the same folder.
        FileNotFoundError: data or weights do not exist.
        RuntimeError: too many videos or images cannot be read, the loss is not finite, another
            process died.
        OSError: the disk is full.

    Source: paper, section 4, and the official configs. The official code validates on random crops;
    we validate on the middle clip and crop.
    """
    config = config.resolve()
    with process_group(config.device) as device, contextlib.ExitStack() as stack:
        trainer: Trainer | None = None
        folder = run_folder(config.out, lambda: trainer is not None and trainer.iteration > 0)
        with fail_together():
            check_config(config)
            if rank() == 0:
                stack.enter_context(folder)
        trainer = Trainer(config, device)
        return trainer.fit()


class Trainer:
    """Train one network: updates, validation, checkpoints and the log of a run.

    Args:
        config: resolved options.
        device: where to compute.
    """

    # attributes that checkpoints hold
    KEPT = (
        *("iteration", "seconds", "scores", "best", "validated", "settled", "window"),
        "unreadable",
    )

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.stop = StopSignal()
        self.iteration = 0
        self.seconds = 0.0  # of training, in all parts of an interrupted run
        self.scores: dict[str, float] = {}
        self.best: float | None = None
        self.validated = 0  # the iteration of the last validation
        self.settled = 0  # the iteration of the last weights written
        self.unreadable: list[int] = []  # items, of all parts and processes
        self.window: list[list[float]] = []  # values of the updates since the last line of the log
        self.copied: tuple[int, bool] | None = None  # iteration of the copy, and whether precise
        self.rate = partial(
            learning_rate,
            base=config.lr,
            steps=config.lr_steps or (),
            warmup=config.warmup,
            cosine=config.iterations if config.schedule == "cosine" else None,
        )
        entries = ("model", "optimizer", "scaler", "ema", "input", "videos", *self.KEPT)
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep, entries)
        run = set_up(config, self.checkpoints)
        self.task, self.start = run.task, run.start
        self.progress = Progress(run.task, config.batch_size, device)
        options = {name: getattr(config, name) for name in LEARNER_OPTIONS}
        self.learner = Learner(run.network, device, **options)
        self.log = MetricsLog(config.out / "metrics.jsonl")
        if run.saved is not None:
            self.learner.restore(run.saved)
            for name in self.KEPT:
                setattr(self, name, run.saved[name])
            status.print(f"resumed at iteration {self.iteration}")
        self.look = None
        with fail_together():
            if rank() == 0:
                self._prepare_files(run)

    def _prepare_files(self, run: RunSetup) -> None:
        """Open what only the first process writes, and write the options of the run."""
        config = self.config
        if config.look is not None:
            from nonlocalnet.training.look_callback import LookCallback

            folder = config.out / "look"
            self.look = LookCallback(config.look, config.look_at, run.network, self.info(), folder)
        restore_log(self.log, run.saved)
        self.log.trackers += start_trackers(config)
        file, text = config.out / "config.json", config.as_json()
        # the options of a finished run stay as they are
        if self.iteration < config.iterations or not TrainConfig.is_at(file):
            write_atomically(file, lambda place: place.write_text(text))

    def fit(self) -> Result:
        """Update until the last iteration or a signal, and save the result."""
        config = self.config
        recent: deque[list[float]] = deque(maxlen=WINDOW)
        bar = Bar(config.model, config.iterations, self.iteration)
        batches = self._read_batches(config.seed)
        again = f"start all of them again with {option('resume', True)}"
        advice = f"{again}; checkpoints are in {config.out}"
        with bar, self.stop, explain_peer_failure(advice), closing(batches):
            if self.iteration >= config.iterations:
                status.print(f"all {config.iterations} iterations are done: nothing to train")
            stop = not self._evaluate_and_save()  # what an interruption prevented
            while self.iteration < config.iterations and not stop:
                values, stop = self.update(batches)
                self.seconds += values[-1]
                self.window.append(values)
                recent.append(values)
                means = [sum(column) / len(column) for column in zip(*recent, strict=True)]
                bar.advance(1, self.progress.text(means, self.rate(self.iteration)))
                if self._due(config.log_every):
                    self.write_line()
                if self._due(config.checkpoint_every):
                    self.save_checkpoint()
                stop = stop or not self._evaluate_and_save()
            if stop:
                self.save_checkpoint()
                self.save_weights("model.safetensors", precise=False)
                status.print(
                    f"interrupted at iteration {self.iteration}; everything is in {config.out}, "
                    f"{option('resume', True)} continues the run"
                )
        self._report_unreadable()
        self.log.close()
        return Result(self.iteration, self.scores, config.out / "model.safetensors", stop)

    def _evaluate_and_save(self) -> bool:
        """Validate and write the weights if that is due and not yet done; False after a signal."""
        try:
            if self.validated < self.iteration and self._due(self.config.eval_every):
                self.validate()
            if self.settled < self.iteration and self._due(self.config.checkpoint_every):
                self.save_weights("model.safetensors")
                self.settled = self.iteration
                self.save_checkpoint()
        except Interrupted:
            return False
        return True

    def _due(self, every: int | None) -> bool:
        return self.iteration == self.config.iterations or self.iteration % (every or 1) == 0

    def _read_batches(self, seed: int) -> Batches:
        return endless_batches(
            self.task.training,
            batch_size=self.config.batch_size,
            seed=seed,
            start=self.iteration,
            workers=self.config.workers,
            accumulate=self.config.accumulate,
            pin_memory=self.device.type == "cuda",
            collate=self.task.collate,
        )

    def update(self, batches: Batches) -> tuple[list[float], bool]:
        """Update the weights once.

        Returns:
            Mean loss, means of the task's values, seconds waited for data, and seconds in all; and
            whether a process received a signal.
        """
        config, started, waited = self.config, time.monotonic(), 0.0
        torch.manual_seed(derive_seed(config.seed, self.iteration, rank()))
        sums = [0.0] * (1 + len(self.task.logged))
        for part in range(config.accumulate):
            asked_at = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked_at
            with self.learner.gathering(last=part + 1 == config.accumulate):
                loss, values = self.task.loss(self.learner.forward, batch, self.learner.to_device)
                self.learner.backward(loss / config.accumulate)
            sums = [a + b for a, b in zip(sums, [loss.item(), *values], strict=True)]
        *sums, stop = all_reduce_sum([*sums, float(self.stop.received)], self.device)
        means = [value / (world_size() * config.accumulate) for value in sums]
        if not math.isfinite(means[0]):
            raise self._diverged(f"the loss is {means[0]}")
        self.learner.step(self.rate(self.iteration))
        self.iteration += 1
        return [*means, waited, time.monotonic() - started], stop > 0

    def _diverged(self, what: str) -> RuntimeError:
        kept = self.checkpoints.files()
        before = f"; checkpoints from before are in {self.config.out}" if kept else ""
        rate = f"lower {option('lr')} (now {self.rate(self.iteration):g})"
        return RuntimeError(f"{what} at iteration {self.iteration}: {rate}{before}")

    def write_line(self) -> None:
        """Write the means since the last line to metrics.jsonl."""
        means = torch.tensor(self.window, dtype=torch.float64).mean(0).tolist()
        self._count_unreadable()
        if rank() == 0:
            self.log.write(
                "train",
                iteration=self.iteration,
                **self.progress.values(means, self.rate(self.iteration - 1)),
                seconds=self.seconds,
                unreadable=len(self.unreadable),
            )
        self.window.clear()

    def _copy(self, precise: bool = True) -> Network:
        """Return the network as it is tested and saved now.

        Raises:
            Interrupted: in every process, if one received a signal meanwhile.
        """
        precise = precise and bool(self.config.precise_norm)
        if self.copied != (self.iteration, precise):
            self.copied = None
            self.learner.refresh_copy(self._inputs_for_norms() if precise else None)
            if precise and all_reduce_sum([float(self.stop.received)], self.device)[0]:
                raise Interrupted
            self.copied = self.iteration, precise
        return self.learner.copy

    def _inputs_for_norms(self) -> Iterator[tuple[Any, ...]]:
        """Yield new inputs to compute precise norms from; a single batch after a signal."""
        with closing(self._read_batches(derive_seed(self.config.seed, self.iteration))) as batches:
            for batch in islice(batches, self.config.precise_norm):
                yield self.task.inputs(batch, self.learner.to_device)
                if self.stop.received:
                    return

    def validate(self) -> None:
        """Validate the network, log the metrics, and keep the weights if they are the best.

        Raises:
            Interrupted: in every process, if one received a signal before the end.
        """
        if self.task.validation is None:
            return
        network = self._copy()
        try:
            self.scores, unreadable = self.task.validate(
                network,
                workers=self.config.workers,
                dtype=self.learner.dtype,
                on_item=lambda items: self.stop.check(),
            )
        except Interrupted:
            all_gather(None)  # for the processes that wait for the results of this one
            raise
        except PeerLeft:
            raise Interrupted from None
        self.validated = self.iteration
        if self._is_best():
            self.save_weights("best.safetensors")
        if rank() == 0:
            self.log.write(
                "val",
                iteration=self.iteration,
                **self.scores,
                seconds=self.seconds,
                unreadable=unreadable,
            )
        text = self.task.format_metrics(self.scores)
        status.print(f"iteration {self.iteration}: validation {text}")
        if self.look is not None:
            self.look(network, self.iteration)

    def _is_best(self) -> bool:
        """Compare the main metric with the best value so far, and keep the better one."""
        metric = main_metric(self.scores)
        assert metric is not None
        value = self.scores[metric.name]
        if math.isnan(value):  # no class has an item: the worst value
            value = -math.inf if metric.higher else math.inf
        better = self.best is None or metric.best([self.best, value]) != self.best
        self.best = value if better else self.best
        return better

    def save_checkpoint(self) -> None:
        """Write a checkpoint atomically.

        Raises:
            RuntimeError: the weights are not finite.
        """
        self._count_unreadable()
        state = self.learner.state()
        if rank() == 0:
            if not all(value.isfinite().all() for value in state["model"].values()):
                raise self._diverged("the weights are not finite")
            state |= {"input": [self.start.mean, self.start.std], "videos": self.task.fingerprint}
            state |= {"config": self.config.as_json(), "log": "\n".join(self.log.lines)}
            state |= {name: getattr(self, name) for name in self.KEPT}
            self.checkpoints.save(self.iteration, state)

    def save_weights(self, name: str, precise: bool = True) -> None:
        """Write the weights as they are tested, with the metadata that their use needs."""
        copy = self._copy(precise)
        if rank() > 0:
            return
        info = self.info()
        if name == "best.safetensors":
            info.facts["chosen_on"] = self._identity["validation"]
        write_atomically(self.config.out / name, lambda file: save_weights(copy, file, info))

    def info(self) -> WeightsInfo:
        """Describe the weights, for their metadata."""
        return WeightsInfo(
            config=self.learner.network.config,
            classes=self.start.classes,
            multi_label=self.task.multi_label,
            short_side=self.config.test_side or self.config.short_side[0],
            mean=self.start.mean,
            std=self.start.std,
            facts={
                "iteration": self.iteration,
                "validation": self.scores,
                "trained_on": self._identity["training"],
            },
        )

    @cached_property
    def _identity(self) -> dict[str, str | None]:
        """Hashes of the data sets, so that a test of the weights can tell whether it uses them."""
        sets = {"training": self.task.training, "validation": self.task.validation}
        return {name: of and self.task.identify(of) for name, of in sets.items()}

    def _count_unreadable(self) -> None:
        found = all_gather(self.task.training.bad_indices())
        self.unreadable = sorted({*self.unreadable}.union(*found))

    def _report_unreadable(self) -> None:
        self._count_unreadable()
        if self.unreadable and rank() == 0:
            file = self.config.out / "unreadable.txt"
            names = "".join(f"{self.task.training.name(i)}\n" for i in self.unreadable)
            write_atomically(file, lambda path: path.write_text(names, errors="surrogateescape"))
            what = f"{len(self.unreadable)} training {self.task.items}"
            status.print(f"{what} could not be read and were replaced: {file}")
