"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nonlocalnet.data.video import VideoDataset
from nonlocalnet.evaluation.multiview import autocast, evaluate
from nonlocalnet.models.registry import create_model
from nonlocalnet.models.video_resnet import VideoResNet
from nonlocalnet.models.weights import Start, WeightsInfo, load_weights, read_start, save_weights
from nonlocalnet.runtime.checkpoint import Checkpoints, lock, write_atomically
from nonlocalnet.runtime.device import pick_precision
from nonlocalnet.runtime.distributed import average, gather, processes, rank, share, size, total
from nonlocalnet.runtime.log import Bar, MetricsLog, RunningMean, status
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.inputs import (
    find_start,
    fingerprint,
    mix,
    normalize_as,
    read_batches,
    read_data,
)
from nonlocalnet.training.interrupt import Interrupt
from nonlocalnet.training.norms import set_precise_statistics
from nonlocalnet.training.optim import learning_rate, make_optimizer
from nonlocalnet.training.parallel import (
    gathering,
    model_state,
    recompute_blocks,
    set_training_state,
    spread,
    training_state,
)
from nonlocalnet.training.tasks import make_task, mixed_loss

WINDOW = 50  # iterations that the bar's numbers are averaged over


@dataclass
class Result:
    """How a run ended: the iteration reached, the last validation's scores, the weights file."""

    iteration: int
    scores: dict[str, float]
    weights: Path
    interrupted: bool


def train(config: TrainConfig) -> Result:
    """Train a network on video files, as the paper does: SGD with Nesterov, step schedule.

    Writes config.json, metrics.jsonl, checkpoints/, model.safetensors and, with validation,
    best.safetensors to `config.out`. An interrupt (Ctrl-C, SIGTERM) ends the run after the current
    update with all of them in place; so does nothing worse than losing the updates since the last
    checkpoint. `resume` goes on, and computes what the uninterrupted run would have: all chance
    depends on the seed and the iteration alone.

    Under torchrun the processes share each update's clips; losses are the same, to rounding, for
    any number of them if norms are frozen or synchronised and nothing drops out.

    Raises:
        ValueError: options or labels that do not fit each other or the data; another process
            trains in that folder.
        FileNotFoundError: data or weights that are not there.
        RuntimeError: too many videos cannot be read, the loss is not finite, another process died.
        OSError: the disk is full.

    Source: paper, section 4, and the official configs. Unlike the official code, whose validation
    clips are random crops, ours are the middle clip and crop.
    """
    config = config.resolve()
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"{config.out} is a file: --out names the folder of the run")
    with processes(config.device) as device:
        if config.batch_size % (size() * config.accumulate):
            raise ValueError(
                f"batch_size {config.batch_size} cannot be shared evenly by {size()} processes in "
                f"{config.accumulate} parts each: choose a multiple of {size() * config.accumulate}"
            )
        config.out.mkdir(parents=True, exist_ok=True)
        with lock(config.out) if rank() == 0 else contextlib.nullcontext():
            return _begin(config, device).fit()


def _begin(config: TrainConfig, device: torch.device) -> _Run:
    """Find what there is, then make everything that a run needs."""
    checkpoints = Checkpoints(config.out / "checkpoints", config.keep)
    if checkpoints.files() and not config.resume:
        raise ValueError(
            f"{config.out} holds a run already: choose another folder, or pass --resume"
        )
    saved = share(checkpoints.load() if rank() == 0 else None)
    if saved is not None:
        before = TrainConfig.read(config.out / "config.json")
        if changed := config.differences(before):
            raise ValueError(
                f"a run goes on as it began, {config.out} with {'; '.join(changed)}: choose "
                "another folder, with --init to start from its weights"
            )
    elif config.resume:
        status.print(f"there is no run in {config.out} yet: this one begins", soft_wrap=True)
    for source in (config.data, config.val):  # before a download
        if source is not None and not source.exists():
            raise FileNotFoundError(f"no videos at {source}: name a data set, a folder or a list")
    path = find_start(config) if saved is None else None
    torch.manual_seed(config.seed)
    training, validation, classes = read_data(config)
    status.print(
        f"{len(training)} training videos, {len(classes)} classes"
        f"{', many labels a video' if training.multi_label else ''}"
    )
    videos = fingerprint(training.records)
    if saved is not None and saved["videos"] != videos:
        raise ValueError(
            f"the training videos or their labels in {config.data} are not those that "
            f"{config.out} began with"
        )
    if saved is not None:
        start = Start(*map(tuple, saved["input"]), saved["classes"])
    else:
        start = Start() if path is None else read_start(path)
    normalize_as(start, training, validation)
    model = create_model(
        config.model,
        num_classes=len(classes),
        clip=config.clip,
        crop=config.crop,
        **config.model_options(),
    )
    if path is not None:
        report = load_weights(model, path, new_classifier=start.classes != classes, new_blocks=True)
        status.print(f"weights from {path} ({report.origin}): {report}", soft_wrap=True)
    start = dataclasses.replace(start, classes=classes)
    run = _Run(config, model, training, validation, start, videos, device)
    if saved is not None:
        run.restore(saved)
    if rank() == 0 and run.iteration < config.iterations:  # else these options change nothing
        text = config.as_json()
        write_atomically(config.out / "config.json", lambda file: file.write_text(text))
    return run


@dataclass
class _Run:
    """The state of a run and what is done with it between updates."""

    config: TrainConfig
    plain: VideoResNet
    training: VideoDataset
    validation: VideoDataset | None
    start: Start
    videos: str
    device: torch.device
    iteration: int = 0
    seconds: float = 0.0  # of training, of all parts of an interrupted run
    scores: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    validated: int = 0  # the iteration of the last validation
    window: list[list[float]] = field(default_factory=list)  # loss and hits since the last line
    weights_of: tuple[int, bool] | None = (
        None  # the iteration that `copy` is of, and whether precise
    )

    def __post_init__(self) -> None:
        config, device = self.config, self.device
        self.log = MetricsLog(config.out / "metrics.jsonl", tensorboard=config.tensorboard)
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep)
        self.weights = config.out / "model.safetensors"
        self.dtype = pick_precision(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.task = make_task(self.training.multi_label, label_smoothing=config.label_smoothing)
        # the layout that convolutions are fastest in, on a CPU too (docs/results.md); FSDP has none
        layout = torch.contiguous_format if config.parallel == "fsdp" else torch.channels_last_3d
        self.plain.to(device).to(memory_format=layout)
        # what is tested and saved: plain, whatever the training network is wrapped in
        self.copy = (
            create_model(**self.plain.config).to(device).to(memory_format=torch.channels_last_3d)
        )
        self.ema = (
            {name: p.detach().clone() for name, p in self.plain.named_parameters()}
            if config.ema
            else {}
        )
        if config.recompute:
            recompute_blocks(self.plain)
        if config.compile:
            self.plain.compile()
        self.model = spread(
            self.plain, device, parallel=config.parallel, sync_norm=config.sync_norm
        )
        self.optimizer = make_optimizer(
            self.model, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        set_training_state(self.model, self.optimizer, saved)
        self.scaler.load_state_dict(saved["scaler"])
        for name, average_ in self.ema.items():
            average_.copy_(saved["ema"][name])
        for name in ("iteration", "seconds", "scores", "best", "validated", "window"):
            setattr(self, name, saved[name])
        self.log.truncate(self.iteration)
        status.print(f"resumed at iteration {self.iteration}")

    def fit(self) -> Result:
        """Update until the last iteration or an interrupt; save what there is."""
        config = self.config
        batches = self._read_batches(self.iteration, config.seed, config.workers)
        waits, paces, losses = (RunningMean(WINDOW) for _ in range(3))
        bar = Bar(config.model, config.iterations, self.iteration)
        asked = False
        with bar, Interrupt() as interrupt, self._explaining_dead_processes():
            if self.iteration and self._due(config.eval_every) and self.validated < self.iteration:
                asked = not self._validate(interrupt)
            while self.iteration < config.iterations and not asked:
                started = time.monotonic()
                loss, hits, waited, asked = self._update(batches, interrupt)
                took = time.monotonic() - started
                self.seconds += took
                self.window.append([loss, hits, waited, took])
                waits.add(waited), paces.add(took), losses.add(loss)
                bar.advance(1, self._words(losses.mean, waits.mean, paces.mean))
                if self.iteration % config.log_every == 0:
                    self._write_line()
                if self._due(config.checkpoint_every):
                    self._save_state()
                if self._due(config.eval_every):
                    asked |= not self._validate(interrupt)
                if self._due(config.checkpoint_every) and not asked:
                    self._save_state()
                    self._save_weights(self.weights)
            if asked:
                self._save_state()
                self._save_weights(self.weights, precise=False)
                status.print(
                    f"interrupted at iteration {self.iteration}; everything is in {config.out}, "
                    f"--resume goes on"
                )
        self._report_unreadable()
        return Result(self.iteration, self.scores, self.weights, asked)

    def _due(self, every: int | None) -> bool:
        return self.iteration == self.config.iterations or self.iteration % (every or 1) == 0

    def _read_batches(
        self, start: int, seed: int, workers: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return read_batches(
            self.training,
            batch_size=self.config.batch_size,
            seed=seed,
            start=start,
            workers=workers,
            accumulate=self.config.accumulate,
            pin_memory=self.device.type == "cuda",
        )

    def _rate(self) -> float:
        config = self.config
        return learning_rate(
            self.iteration,
            config.lr,
            config.lr_steps or (),
            warmup=config.warmup,
            cosine=config.iterations if config.schedule == "cosine" else None,
        )

    def _update(
        self, batches: Iterator[tuple[Tensor, Tensor, Tensor]], interrupt: Interrupt
    ) -> tuple[float, float, float, bool]:
        """Change the weights once; give mean loss, share of hits, seconds waited for data, and
        whether a process was asked to stop."""
        config = self.config
        torch.manual_seed(mix(config.seed, self.iteration, rank()))
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.model.train()
        loss_sum = hits = waited = 0.0
        for part in range(config.accumulate):
            started = time.monotonic()
            clips, target, _ = next(batches)
            waited += time.monotonic() - started
            clips, target = self._send(clips), target.to(self.device, non_blocking=True)
            with gathering(self.model, last=part + 1 == config.accumulate):
                loss, logits = mixed_loss(self._forward, self.task, clips, target, config.mixup)
                self.scaler.scale(loss / config.accumulate).backward()
            loss_sum += loss.item()
            if not self.task.multi_label:
                hits += (logits.argmax(1) == target).float().mean().item()
        loss_sum, hits, asked = total([loss_sum, hits, float(interrupt.asked)], self.device)
        shares = size() * config.accumulate
        if not loss_sum / shares < float("inf"):
            raise RuntimeError(
                f"the loss is {loss_sum / shares} at iteration {self.iteration}: lower --lr "
                f"(now {self._rate():g}); checkpoints are in {config.out}"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        for name, parameter in self.plain.named_parameters() if self.ema else ():
            self.ema[name].lerp_(parameter.detach(), 1 - config.ema)
        self.iteration += 1
        return loss_sum / shares, hits / shares, waited, asked > 0

    def _send(self, clips: Tensor) -> Tensor:
        layout = torch.channels_last_3d
        clips = clips.to(self.device, non_blocking=True, memory_format=layout)
        return self.training.normalize(clips)

    def _forward(self, clips: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.model(clips).float()

    def _words(self, loss: float, waited: float, took: float) -> str:
        words = [f"loss {loss:.3f}"]
        if not self.task.multi_label:
            hits = [line[1] for line in self.window[-WINDOW:]]
            words.append(f"accuracy {sum(hits) / len(hits):.1%}")
        words += [f"lr {self._rate():.3g}", f"{self.config.batch_size / took:.1f} clips/s"]
        words.append(f"waiting for data {waited / took:.0%}")
        if self.device.type == "cuda":
            words.append(f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB")
        return "  ".join(words)

    def _write_line(self) -> None:
        """Write the means since the last line."""
        loss, hits, waited, took = torch.tensor(self.window, dtype=torch.float64).mean(0).tolist()
        memory = (
            {"gpu_mib": torch.cuda.max_memory_allocated(self.device) / 2**20}
            if self.device.type == "cuda"
            else {}
        )
        bad = gather(self.training.bad_indices())
        if rank() == 0:
            self.log.write(
                "train",
                iteration=self.iteration,
                loss=loss,
                accuracy=float("nan") if self.task.multi_label else 100 * hits,
                lr=self.optimizer.param_groups[0]["lr"],
                clips_per_second=self.config.batch_size / took,
                data_share=waited / took,
                seconds=self.seconds,
                unreadable=len(set().union(*bad)),
                **memory,
            )
        self.window.clear()

    def _refresh_copy(self, precise: bool = True) -> None:
        """Bring the plain copy to the present weights (their average with EMA) and statistics."""
        if self.weights_of == (self.iteration, precise):
            return
        self.copy.load_state_dict(model_state(self.model) | self.ema)
        if precise and self.config.precise_norm:
            batches = self._read_batches(
                self.iteration, mix(self.config.seed, self.iteration), self.config.workers
            )
            clips = (self._send(next(batches)[0]) for _ in range(self.config.precise_norm))
            with autocast(self.device, self.dtype):
                set_precise_statistics(self.copy, clips)
        else:
            average([b for b in self.copy.buffers() if b.is_floating_point()])
        self.weights_of = (self.iteration, precise)

    def _validate(self, interrupt: Interrupt) -> bool:
        """Test the weights; False if an interrupt came before the end."""
        if self.validation is None:
            return True
        self._refresh_copy()
        try:
            predictions = evaluate(
                self.copy,
                self.validation,
                multi_label=self.task.multi_label,
                workers=self.config.workers,
                dtype=self.dtype,
                on_video=lambda videos: interrupt.end_if_asked(),
            )
        except KeyboardInterrupt:
            return False
        self.validated = self.iteration
        self.scores = self.task.score(predictions.probabilities, predictions.target)
        score = self.scores[self.task.main_score]
        if self.best is None or score > self.best:
            self.best = score
            self._save_weights(self.config.out / "best.safetensors")
        if rank() == 0:
            unreadable = len(predictions.unreadable)
            self.log.write("val", iteration=self.iteration, **self.scores, unreadable=unreadable)
        text = "  ".join(f"{name} {value:.1f}" for name, value in self.scores.items())
        status.print(f"iteration {self.iteration}: validation {text}")
        return True

    def _save_state(self) -> None:
        """Write a checkpoint, whole or not at all."""
        state: dict[str, Any] = training_state(self.model, self.optimizer)
        if rank() == 0:
            state |= {
                "input": [self.start.mean, self.start.std],
                "classes": self.start.classes,
                "videos": self.videos,
                "scaler": self.scaler.state_dict(),
                "ema": {name: value.cpu() for name, value in self.ema.items()},
            }
            for name in ("iteration", "seconds", "scores", "best", "validated", "window"):
                state[name] = getattr(self, name)
            self.checkpoints.save(self.iteration, state)

    def _save_weights(self, path: Path, precise: bool = True) -> None:
        """Write the weights as they are tested, with all that a user of them must know."""
        self._refresh_copy(precise)
        if rank() > 0:
            return
        info = WeightsInfo(
            config=self.plain.config,
            classes=self.start.classes,
            multi_label=self.task.multi_label,
            short_side=self.config.test_side or self.config.short_side[0],
            mean=self.start.mean,
            std=self.start.std,
            facts={"iteration": self.iteration, "validation": self.scores},
        )
        write_atomically(path, lambda file: save_weights(self.copy, file, info))

    def _report_unreadable(self) -> None:
        bad = sorted(set().union(*gather(self.training.bad_indices())))
        if bad and rank() == 0:
            file = self.config.out / "unreadable.txt"
            names = "".join(f"{self.training.records[i].name}\n" for i in bad)
            write_atomically(file, lambda path: path.write_text(names, errors="surrogateescape"))
            status.print(f"{len(bad)} training videos could not be read and were replaced: {file}")

    @contextlib.contextmanager
    def _explaining_dead_processes(self) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
            if size() > 1 and lost:
                raise RuntimeError(
                    f"another process of this run died at about iteration {self.iteration} "
                    f"({str(error).splitlines()[0][:200]}); start all again with --resume, "
                    f"checkpoints are in {self.config.out}"
                ) from error
            raise
