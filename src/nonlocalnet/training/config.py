"""Everything a training run is told, with the paper's values as defaults where they exist."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from nonlocalnet.blocks.non_local_block import Extent
from nonlocalnet.blocks.norm import Norm
from nonlocalnet.detection.networks import DETECTORS, STAGES
from nonlocalnet.errors import check_choice, option
from nonlocalnet.networks.options import parse_options
from nonlocalnet.networks.registry import DEPTHS, list_models
from nonlocalnet.ops import Pairwise

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["steps", "cosine"]
Parallel = Literal["ddp", "fsdp"]

# what a run may change when it is taken up again; the rest is part of what it computes
FREE = {
    *("data", "val", "root", "classes", "out", "iterations", "lr_steps"),
    *("workers", "cache", "max_bad", "log_every", "eval_every", "checkpoint_every", "keep"),
    *("device", "accumulate", "recompute", "parallel", "tensorboard", "resume"),
    *("look", "look_at"),
}

# what networks of the other kind have no use for
OF_VIDEOS = {
    *("classes", "split", "clip", "crop", "extent", "dropout", "label_smoothing", "mixup"),
    *("compile", "cache", "look", "look_at"),
}
OF_IMAGES = {"jitter"}

ELSEWHERE = ("num_classes", "clip", "crop")  # arguments of the network that `set` does not tell

PRETRAINED = (*DEPTHS, "x152")

FEW_BATCHES = 10  # running averages know more


@dataclass(frozen=True)
class TrainConfig:
    """Options of `nonlocalnet train`."""

    data: Path
    """Training videos: a data set in a known format (docs/data.md), a folder with one folder per
    class, a list file of "PATH LABEL" lines, or a Charades-style .csv (many labels a video). For
    detectors COCO's folder, or one file of its annotations."""
    out: Path
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, model.safetensors and
    best.safetensors."""
    val: Path | None = None
    """What to validate on, in the same form; by default that of the data set, if it has any."""
    root: Path | None = None
    """Where relative paths of a list or csv start, by default its own folder; where images are."""
    classes: Path | None = None
    """File of class names, one a line in label order."""
    split: int = 1
    """Which of the official splits, in data sets that have several (UCF101, HMDB51)."""

    model: str = "i3d_r50_nl5"
    """A name of `nonlocalnet models`."""
    clip: str = "8x8"
    """FRAMESxRATE: that many frames, every RATE-th one."""
    crop: int = 224
    """Side of the training crop, pixels."""
    short_side: tuple[int, int] = (256, 320)
    """Range of the short side in training, pixels; of images in steps of 32."""
    test_side: int | None = None
    """Short side and crop in testing, pixels; by default the lower end of --short-side, of images
    the upper one."""
    flip: float = 0.5
    """Probability of a mirrored clip or image; 0 where labels say left and right."""
    jitter: float = 0.0
    """Most by which brightness, contrast and saturation of images change, as a share; detectors."""
    pairwise: Pairwise = "embedded_gaussian"
    """The pairwise function of the non-local blocks."""
    extent: Extent = "spacetime"
    """Which positions a position sees."""
    norm: Norm = "batch"
    """"frozen" for long clips: norms are constants, from --init."""
    sync_norm: bool = False
    """Batch norms take the statistics of all processes; on GPUs."""
    precise_norm: int | None = None
    """Batches whose statistics the batch norms take before every test and checkpoint (the official
    code: 200); 0 keeps running averages. By default 2% of the updates in between, at most 200, or
    none if that is below 10."""
    dropout: float = 0.5
    """Before the classifier."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: other arguments of the network, such as stem_padding=1."""
    init: str = "auto"
    """Weights to start from: a file of any known format, a release (nonlocalnet zoo), "imagenet"
    (torchvision's ResNet of that depth; inflated) or "none"; "auto" is imagenet for the paper's
    depths, else none. The classifier is new if its classes are others, and so are non-local blocks
    that the file lacks: the identity at start. The input is normalized as the file's was."""

    init_missing: tuple[str, ...] = ()
    """Parts of the network that --init need not have in full, such as res5 (of a detector layer4):
    what the file lacks of them starts at random."""

    iterations: int = 400_000
    """Updates of the weights."""
    batch_size: int = 8
    """Clips or images per update, over all processes."""
    lr: float = 0.00125
    """Learning rate; the paper's 0.01 is for 64 clips per update."""
    reference_batch: int | None = None
    """Clips per update that --lr, --iterations, --lr-steps and --warmup are stated for: for another
    --batch-size the rate is scaled in proportion, the others inversely (linear scaling rule)."""
    schedule: Schedule = "steps"
    """The rate's course: a tenth at each of --lr-steps, or half a cosine down to 0."""
    lr_steps: tuple[int, ...] | None = None
    """Iterations at which the rate is divided by 10; by default at 3/8 and 3/4 of the run."""
    warmup: int = 0
    """Iterations of linear warm-up, from 0."""
    momentum: float = 0.9
    """Of SGD with Nesterov."""
    weight_decay: float = 1e-4
    """On everything but norms."""
    max_grad_norm: float = 0.0
    """Longest gradient over all weights, a longer one is scaled down to it; 0 is off."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    mixup: float = 0.0
    """Mix pairs of clips with a share drawn from Beta(mixup, mixup); 0 is off."""
    ema: float = 0.0
    """Decay of an average of the weights over the updates, which is what is tested and saved; 0 is
    off."""
    precision: Precision = "auto"
    """Arithmetic: auto is bf16 on a GPU that has it, fp32 elsewhere."""
    seed: int = 0
    """Of initial weights, order of videos, augmentation and dropout."""

    accumulate: int = 1
    """Parts that a process's share of an update is computed in, one after the other, to save
    memory."""
    recompute: bool = False
    """Keep the residual blocks' inputs alone, and compute the rest again in the backward pass, to
    save memory."""
    parallel: Parallel = "ddp"
    """With torchrun: every process holds the network (ddp), or a part of it (fsdp)."""
    compile: bool = False
    """Compile the network with torch.compile."""

    workers: int = 2
    """Processes that decode, for each process that trains; 0 decodes in that one."""
    cache: bool = False
    """Keep all decoded videos in memory; for small data."""
    max_bad: float = 0.1
    """Share of unreadable training videos above which the run ends with an error."""
    log_every: int = 10
    """Iterations between lines of metrics.jsonl."""
    eval_every: int | None = None
    """Iterations between validations; by default a twentieth of the run, at least 50."""
    checkpoint_every: int | None = None
    """Iterations between checkpoints; by default with each validation."""
    keep: int = 3
    """Checkpoints kept, the newest ones."""
    look: Path | None = None
    """A video: what its middle point attends to in the last non-local block is drawn at every
    validation, in OUT/look, so that one sees attention form."""
    look_at: tuple[float, float, float] | None = None
    """FRAME X Y: another point of --look, as frame of its clip and pixel of the video."""
    tensorboard: bool = False
    """Write TensorBoard's event files too; needs the extra tensorboard."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    resume: bool = False
    """Go on from the newest checkpoint in OUT, if there is one; options are those of the run."""
    recipe: tyro.conf.Suppress[str] = ""

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "log_every", "crop", "accumulate", "keep"):
            self._check_least(name, 1)
        for name in ("eval_every", "checkpoint_every", "test_side", "reference_batch"):
            self._check_least(name, 1)
        for name in ("workers", "warmup", "precise_norm", "weight_decay", "mixup", "max_grad_norm"):
            self._check_least(name, 0)
        for name in ("dropout", "label_smoothing", "ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        if self.init_missing and self.init == "none":
            raise ValueError(f"{option('init_missing')} is of weights to start from: pass them too")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive; got {self.lr}")
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_choice("parallel", self.parallel, get_args(Parallel))
        check_choice("model", self.model, list_models())
        self._check_kind()
        if self.parallel == "fsdp" and (self.ema or self.precision == "fp16"):
            raise ValueError("parallel fsdp goes with neither ema nor fp16: choose ddp, or bf16")

        if self.recompute and self.compile:
            raise ValueError("recompute does not go with compile, which torch refuses: choose one")

    def _check_kind(self) -> None:
        """Refuse options that the network's kind has no use for."""
        other = OF_VIDEOS if self.model in DETECTORS else OF_IMAGES
        for field in dataclasses.fields(self):
            if field.name in other and getattr(self, field.name) != field.default:
                kind = "images" if self.model in DETECTORS else "clips"
                raise ValueError(
                    f"{self.model} learns from {kind}: it has no {field.name.replace('_', '-')}"
                )

    def _check_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")

    def resolve(self) -> TrainConfig:
        """Put numbers in place of defaults and rules: what is saved with the run, and runs.

        Paths become absolute, so that a run goes on from wherever it is called.

        Scales by the linear scaling rule (Goyal et al. 2017): k times as many clips per update,
        k times the rate, and 1/k of the iterations.
        """
        k = self.batch_size / (self.reference_batch or self.batch_size)
        iterations = max(1, round(self.iterations / k))
        steps = self.lr_steps
        if steps is None:
            steps = tuple(max(1, n * self.iterations // 8) for n in (3, 6))
        eval_every = self.eval_every or max(iterations // 20, 50)
        checkpoint_every = self.checkpoint_every or eval_every
        precise = self.precise_norm
        if precise is None:
            precise = min(200, min(eval_every, checkpoint_every) // 50)
            precise = 0 if precise < FEW_BATCHES else precise
        init = self.init
        if init == "auto":
            init = "imagenet" if any(f"_{depth}" in self.model for depth in PRETRAINED) else "none"
        elif Path(init).is_file():
            init = str(Path(init).absolute())
        named = {name: getattr(self, name) for name in ("data", "val", "root", "classes", "look")}
        return dataclasses.replace(
            self,
            reference_batch=self.batch_size,
            lr=self.lr * k,
            iterations=iterations,
            lr_steps=tuple(round(step / k) for step in steps),
            warmup=round(self.warmup / k),
            eval_every=eval_every,
            checkpoint_every=checkpoint_every,
            precise_norm=0 if self.norm == "frozen" else precise,
            test_side=self.test_side or self.short_side[self.model in DETECTORS],
            init=init,
            **{name: Path(path).absolute() for name, path in named.items() if path is not None},
        )

    def model_options(self) -> dict[str, Any]:
        """Collect the arguments of `create_model` that differ from its own defaults.

        Raises:
            ValueError: one in `set` that is told elsewhere.
        """
        told = parse_options(self.set)
        for name in set(ELSEWHERE) & told.keys():
            by = option(name) if hasattr(self, name) else "the data"
            raise ValueError(f"{name} is told by {by}, not by {option('set')}")
        if self.model in DETECTORS:
            options: dict[str, Any] = {
                "norm": self.norm,
                "pairwise": self.pairwise,
                "min_size": self.test_side,
            }
            if self.init == "none":
                options["trainable_stages"] = STAGES  # no stage is worth keeping as it is
            return options | told
        options = {
            "pairwise": (self.pairwise, "embedded_gaussian"),
            "extent": (self.extent, "spacetime"),
            "norm": (self.norm, "batch"),
            "dropout": (self.dropout, 0.5),
        }
        named = {key: value for key, (value, default) in options.items() if value != default}
        return named | told

    def differences(self, other: TrainConfig) -> list[str]:
        """Say in which options, but for the free ones, another run would compute something else."""
        # a cosine's course depends on its length
        free = FREE - {"iterations"} if self.schedule == "cosine" else FREE
        names = [field.name for field in dataclasses.fields(self) if field.name not in free]
        return [
            f"{name} {getattr(self, name)!r}, not {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]

    def check_goes_on(self, before: TrainConfig) -> None:
        """Refuse to go on with a run that was begun otherwise.

        Raises:
            ValueError: other options than the free ones differ.
        """
        if changed := self.differences(before):
            raise ValueError(
                f"a run goes on as it began, {self.out} with {'; '.join(changed)}: choose "
                f"another folder, with {option('init')} to start from its weights"
            )

    def as_json(self) -> str:
        """Write the options as JSON, one a line."""
        values = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def find(cls, out: str | Path) -> TrainConfig | None:
        """Read the options of the run in a folder, if there is one."""
        file = Path(out) / "config.json"
        return cls.read(file) if file.is_file() else None

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Tell whether a file holds the options of a run."""
        try:
            cls.read(path)
        except (OSError, ValueError):
            return False
        return True

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Read the options of a run from its config.json.

        Raises:
            ValueError: the file is damaged, or of another version.
        """
        try:
            return cls.from_json(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} does not hold the options of a run: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what `as_json` wrote.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        try:
            values = json.loads(text)
            for name in ("data", "out", "val", "root", "classes", "look"):
                if values[name] is not None:
                    values[name] = Path(values[name])
            for name, value in values.items():
                if isinstance(value, list):
                    values[name] = tuple(value)
            return cls(**values)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None
