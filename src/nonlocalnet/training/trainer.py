"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.checkpoints.load import WeightsInfo, save_weights
from nonlocalnet.errors import option
from nonlocalnet.evaluation.multiview import PeerLeft
from nonlocalnet.evaluation.scores import main_score
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.distributed import (
    explain_dead_processes,
    gather,
    processes,
    rank,
    size,
    total,
)
from nonlocalnet.runtime.log import Bar, MetricsLog, RunningMean, status
from nonlocalnet.training.checkpoints import Checkpoints, run_folder
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.learner import Learner
from nonlocalnet.training.loader import Batches, mix, read_batches
from nonlocalnet.training.optim import learning_rate
from nonlocalnet.training.setup import begin, check, restore_log
from nonlocalnet.training.signals import Interrupt, Interrupted

WINDOW = 50  # iterations that the bar's numbers are averaged over


@dataclass
class Result:
    """How a run ended: the iteration reached, the last validation's scores, the weights file."""

    iteration: int
    scores: dict[str, float]
    weights: Path
    interrupted: bool


def train(config: TrainConfig) -> Result:
    """Train a network as the paper does, with SGD and a step schedule: on videos, or on COCO.

    Writes config.json, metrics.jsonl, checkpoints/, model.safetensors and, with validation,
    best.safetensors to `config.out`. An interrupt (Ctrl-C, SIGTERM) ends the run after the current
    update with all of them in place; a kill loses the updates since the last checkpoint. `resume`
    goes on, and computes what the uninterrupted run would have: all chance depends on the seed and
    the iteration alone.

    Under torchrun the processes share each update's clips or images; losses are the same, to
    rounding, for any number of them if norms are frozen or synchronized and nothing drops out; but
    a detector's processes draw the proposals that they learn from each on their own.

    Raises:
        ValueError: options or labels that do not fit each other or the data; another process
            trains in that folder.
        FileNotFoundError: data or weights that are not there.
        RuntimeError: too many videos or images cannot be read, the loss is not finite, another
            process died.
        OSError: the disk is full.

    Source: paper, section 4, and the official configs. Unlike the official code, whose validation
    clips are random crops, ours are the middle clip and crop.
    """
    config = config.resolve()
    with processes(config.device) as device:
        check(config)
        run: _Run | None = None
        folder = run_folder(config.out, lambda: run is not None and run.iteration > 0)
        with folder if rank() == 0 else contextlib.nullcontext():
            run = _Run(config, device)
            return run.fit()


class _Run:
    """The state of a run and what is done with it between updates."""

    KEPT = (  # in checkpoints
        *("iteration", "seconds", "scores", "best", "validated", "settled", "window"),
        "unreadable",
    )

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.interrupt = Interrupt()
        self.iteration = 0
        self.seconds = 0.0  # of training, in all parts of an interrupted run
        self.scores: dict[str, float] = {}
        self.best: float | None = None
        self.validated = 0  # the iteration of the last validation
        self.settled = 0  # that of the last weights written
        self.unreadable: list[int] = []  # items, of all parts and processes
        self.window: list[list[float]] = []  # loss, numbers, waited, took: since the last line
        self.copied: tuple[int, bool] | None = None  # of which iteration, and whether precise
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep)
        given = begin(config, self.checkpoints)
        self.task, self.start = given.task, given.start
        self.learner = Learner(
            given.network,
            device,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            precision=config.precision,
            ema=config.ema,
            parallel=config.parallel,
            sync_norm=config.sync_norm,
            recompute=config.recompute,
            compile=config.compile,
        )
        self.log = MetricsLog(
            config.out / "metrics.jsonl", tensorboard=config.tensorboard and rank() == 0
        )
        if given.saved is not None:
            self.learner.restore(given.saved)
            for name in self.KEPT:
                setattr(self, name, given.saved[name])
            status.print(f"resumed at iteration {self.iteration}")
        self.watch = None
        if config.look is not None and rank() == 0:
            if not any(isinstance(module, NonLocalBlock) for module in given.network.modules()):
                raise ValueError(
                    f"{config.model} has no non-local block for {option('look')} to draw"
                )
            from nonlocalnet.training.look_callback import Watch

            self.watch = Watch(config.look, config.look_at, self._info(), config.out / "look")
        if rank() == 0:
            restore_log(self.log, given.saved)
            file, text = config.out / "config.json", config.as_json()
            # of a run that is done the options change nothing
            if self.iteration < config.iterations or not TrainConfig.is_at(file):
                write_atomically(file, lambda place: place.write_text(text))

    def fit(self) -> Result:
        """Update until the last iteration or an interrupt; save what there is."""
        config = self.config
        shown = [RunningMean(WINDOW) for _ in range(3 + len(self.task.numbers))]
        bar = Bar(config.model, config.iterations, self.iteration)
        batches = self._read_batches(config.seed)
        with bar, self.interrupt, explain_dead_processes(config.out), closing(batches):
            if self.iteration >= config.iterations:
                status.print(f"all {config.iterations} iterations are done: nothing to train")
            asked = not self._settle()  # what a kill cut off
            while self.iteration < config.iterations and not asked:
                numbers, asked = self._update(batches)
                self.seconds += numbers[-1]
                self.window.append(numbers)
                for mean, number in zip(shown, numbers, strict=True):
                    mean.add(number)
                bar.advance(1, self._words([mean.mean for mean in shown]))
                if self._due(config.log_every):
                    self._write_line()
                if self._due(config.checkpoint_every):
                    self._save_state()
                asked = asked or not self._settle()
            if asked:
                self._save_state()
                self._save_weights("model.safetensors", precise=False)
                status.print(
                    f"interrupted at iteration {self.iteration}; everything is in {config.out}, "
                    f"{option('resume', True)} goes on"
                )
        self._report_unreadable()
        self.log.close()
        weights = config.out / "model.safetensors"
        return Result(self.iteration, self.scores, weights, asked)

    def _settle(self) -> bool:
        """Validate and write the weights where that is due and not done; False if interrupted."""
        try:
            if self.validated < self.iteration and self._due(self.config.eval_every):
                self._validate()
            if self.settled < self.iteration and self._due(self.config.checkpoint_every):
                self._save_weights("model.safetensors")
                self.settled = self.iteration
                self._save_state()
        except Interrupted:
            return False
        return True

    def _due(self, every: int | None) -> bool:
        return self.iteration == self.config.iterations or self.iteration % (every or 1) == 0

    def _read_batches(self, seed: int) -> Batches:
        return read_batches(
            self.task.training,
            batch_size=self.config.batch_size,
            seed=seed,
            start=self.iteration,
            workers=self.config.workers,
            accumulate=self.config.accumulate,
            pin_memory=self.device.type == "cuda",
            collate=self.task.collate,
        )

    def _rate(self, iteration: int | None = None) -> float:
        config = self.config
        return learning_rate(
            self.iteration if iteration is None else iteration,
            config.lr,
            config.lr_steps or (),
            warmup=config.warmup,
            cosine=config.iterations if config.schedule == "cosine" else None,
        )

    def _update(self, batches: Batches) -> tuple[list[float], bool]:
        """Change the weights once.

        Gives the mean loss, the means of the task's numbers, the seconds waited for data and taken
        in all; and whether a process was asked to stop.
        """
        config, started, waited = self.config, time.monotonic(), 0.0
        torch.manual_seed(mix(config.seed, self.iteration, rank()))
        sums = [0.0] * (1 + len(self.task.numbers))
        for part in range(config.accumulate):
            asked_at = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked_at
            with self.learner.gathering(last=part + 1 == config.accumulate):
                loss, numbers = self.task.loss(self.learner.forward, batch, self.learner.send)
                self.learner.backward(loss / config.accumulate)
            sums = [a + b for a, b in zip(sums, [loss.item(), *numbers], strict=True)]
        *sums, asked = total([*sums, float(self.interrupt.asked)], self.device)
        means = [value / (size() * config.accumulate) for value in sums]
        if not math.isfinite(means[0]):
            raise self._diverged(f"the loss is {means[0]}")
        self.learner.step(self._rate())
        self.iteration += 1
        return [*means, waited, time.monotonic() - started], asked > 0

    def _diverged(self, what: str) -> RuntimeError:
        kept = self.checkpoints.files()
        before = f"; checkpoints from before are in {self.config.out}" if kept else ""
        rate = f"lower {option('lr')} (now {self._rate():g})"
        return RuntimeError(f"{what} at iteration {self.iteration}: {rate}{before}")

    def _words(self, means: list[float]) -> str:
        loss, *numbers, waited, took = means
        words = [f"loss {loss:.3f}", *self.task.words(numbers), f"lr {self._rate():.3g}"]
        words.append(f"{self.config.batch_size / took:.1f} {self.task.unit}/s")
        words.append(f"waiting for data {waited / took:.0%}")
        if self.device.type == "cuda":
            words.append(f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB")
        return "  ".join(words)

    def _write_line(self) -> None:
        """Write the means since the last line."""
        means = torch.tensor(self.window, dtype=torch.float64).mean(0).tolist()
        loss, *numbers, waited, took = means
        memory = (
            {"gpu_mib": torch.cuda.max_memory_allocated(self.device) / 2**20}
            if self.device.type == "cuda"
            else {}
        )
        self._count_unreadable()
        if rank() == 0:
            self.log.write(
                "train",
                iteration=self.iteration,
                loss=loss,
                **dict(zip(self.task.numbers, numbers, strict=True)),
                lr=self._rate(self.iteration - 1),
                **{f"{self.task.unit}_per_second": self.config.batch_size / took},
                data_share=waited / took,
                seconds=self.seconds,
                unreadable=len(self.unreadable),
                **memory,
            )
        self.window.clear()

    def _copy(self, precise: bool = True) -> Network:
        """Give the network as it is tested and saved now.

        Raises:
            Interrupted: in every process, if one was asked to end meanwhile.
        """
        precise = precise and bool(self.config.precise_norm)
        if self.copied != (self.iteration, precise):
            self.copied = None
            self.learner.refresh_copy(self._inputs_for_norms() if precise else None)
            if precise and total([float(self.interrupt.asked)], self.device)[0]:
                raise Interrupted
            self.copied = self.iteration, precise
        return self.learner.copy

    def _inputs_for_norms(self) -> Iterator[tuple[Any, ...]]:
        """Draw anew what precise norms are computed from; one batch if asked to end."""
        with closing(self._read_batches(mix(self.config.seed, self.iteration))) as batches:
            for batch in islice(batches, self.config.precise_norm):
                yield self.task.inputs(batch, self.learner.send)
                if self.interrupt.asked:
                    return

    def _validate(self) -> None:
        """Test the weights.

        Raises:
            Interrupted: in every process, if one was asked to end before the end.
        """
        if self.task.validation is None:
            return
        network = self._copy()
        try:
            self.scores, unreadable = self.task.validate(
                network,
                workers=self.config.workers,
                dtype=self.learner.dtype,
                on_item=lambda items: self.interrupt.end_if_asked(),
            )
        except Interrupted:
            gather(None)  # for the processes that wait for this one's share
            raise
        except PeerLeft:
            raise Interrupted from None
        self.validated = self.iteration
        if self._is_best():
            self._save_weights("best.safetensors")
        if rank() == 0:
            self.log.write(
                "val",
                iteration=self.iteration,
                **self.scores,
                seconds=self.seconds,
                unreadable=unreadable,
            )
        text = self.task.score_words(self.scores)
        status.print(f"iteration {self.iteration}: validation {text}")
        if self.watch is not None:
            self.watch.draw(network, self.iteration)

    def _is_best(self) -> bool:
        """Keep the score that runs are judged by, if it is better than all before."""
        score = main_score(self.scores)
        assert score is not None
        value = self.scores[score.name]
        value = -1.0 if math.isnan(value) else value  # where no class has an item
        better = self.best is None or score.best([self.best, value]) != self.best
        self.best = value if better else self.best
        return better

    def _save_state(self) -> None:
        """Write a checkpoint, whole or not at all."""
        self._count_unreadable()
        state = self.learner.state()
        if rank() == 0:
            if not all(value.isfinite().all() for value in state["model"].values()):
                raise self._diverged("the weights are no numbers")
            state |= {"input": [self.start.mean, self.start.std], "videos": self.task.data}
            state |= {"config": self.config.as_json(), "log": "\n".join(self.log.lines)}
            state |= {name: getattr(self, name) for name in self.KEPT}
            self.checkpoints.save(self.iteration, state)

    def _save_weights(self, name: str, precise: bool = True) -> None:
        """Write the weights as they are tested, with all that a user of them must know."""
        copy = self._copy(precise)
        if rank() > 0:
            return
        info = self._info()
        if name == "best.safetensors":
            info.facts["chosen_on"] = self._identity["validation"]
        write_atomically(self.config.out / name, lambda file: save_weights(copy, file, info))

    def _info(self) -> WeightsInfo:
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
        """Hashes by which a test of the weights tells whether it is on the same data."""
        sets = {"training": self.task.training, "validation": self.task.validation}
        return {name: of and self.task.identify(of) for name, of in sets.items()}

    def _count_unreadable(self) -> None:
        found = gather(self.task.training.bad_indices())
        self.unreadable = sorted({*self.unreadable}.union(*found))

    def _report_unreadable(self) -> None:
        self._count_unreadable()
        bad = self.unreadable
        if bad and rank() == 0:
            file = self.config.out / "unreadable.txt"
            names = "".join(f"{self.task.training.name(i)}\n" for i in bad)
            write_atomically(file, lambda path: path.write_text(names, errors="surrogateescape"))
            what = f"{len(bad)} training {self.task.items}"
            status.print(f"{what} could not be read and were replaced: {file}")
