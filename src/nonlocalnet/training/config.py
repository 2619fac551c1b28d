"""Options of a training run; defaults follow the paper where it states a value."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import option, shown
from nonlocalnet.networks.options import parse_options
from nonlocalnet.networks.registry import find_row
from nonlocalnet.networks.rows import DEPTHS
from nonlocalnet.options import (
    Extent,
    Norm,
    Pairwise,
    Parallel,
    Precision,
    Schedule,
    check_takes,
    check_values,
    rules_of,
    setting,
    types_of,
)

ELSEWHERE = ("num_classes", "clip", "crop")  # network arguments with options of their own
PRETRAINED = (*DEPTHS, "x152")
FEW_BATCHES = 10  # running averages are more precise than fewer batches


def parse_tracker(name: str) -> tuple[str, str]:
    """Split "MODULE:FUNCTION" or "FILE.py:FUNCTION".

    >>> parse_tracker("examples/trackers/wandb_run.py:start")
    ('examples/trackers/wandb_run.py', 'start')
    """
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        form = "MODULE:FUNCTION or FILE.py:FUNCTION"
        raise ValueError(f"{option('tracker')} must be {form}; got {shown(name)}")
    return place, function


@dataclass(frozen=True)
class TrainConfig:
    """Options of `nonlocalnet train`."""

    data: Path = setting(free=True, early=True, names="a data set, a folder or a list")
    """Training videos: a data set in a known format (docs/data.md), a folder with one subfolder per
    class, a list file of "PATH LABEL" lines, or a Charades-style .csv (several labels per video).
    For detectors: COCO's folder, or one annotation file."""
    out: Path = setting(free=True, early=True, compared="nowhere")
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, model.safetensors and
    best.safetensors."""
    val: Path | None = setting(None, free=True, names="a data set, a folder or a list")
    """Validation data, in the same form as --data; default: the data set's own validation split, if
    it has one."""
    root: Path | None = setting(None, free=True, names="a folder")
    """Folder that relative paths in a list or .csv start from (default: the folder of that file);
    for detectors, the folder of the images."""
    classes: Path | None = setting(None, free=True, takes="videos", names="a file of class names")
    """File of class names, one per line, in label order."""
    split: int = setting(1, takes="videos")
    """Official split to use, for data sets with several (UCF101, HMDB51)."""

    model: str = setting("i3d_r50_nl5", early=True)
    """Network name; `nonlocalnet models` lists all."""
    clip: str = setting("8x8", takes="videos", parse=ClipSpec.parse)
    """FRAMESxRATE: the number of frames in a clip, and the step between them."""
    crop: int = setting(224, least=1, takes="videos")
    """Side of the training crop, in pixels."""
    short_side: tuple[int, int] = setting((256, 320), least=1)
    """Range of the short side in training, in pixels; images use steps of 32."""
    test_side: int | None = setting(None, least=1, compared="json")
    """Short side and crop in testing, in pixels; default: the lower end of --short-side for videos,
    the upper end for images."""
    flip: float = setting(0.5, least=0, most=1)
    """Probability of mirroring a clip or image; use 0 if labels mention left and right."""
    jitter: float = setting(0.0, least=0, most=1, takes="images")
    """Largest relative change of brightness, contrast and saturation; detectors only."""
    pairwise: Pairwise = setting("embedded_gaussian", argument=True)
    """Pairwise function of the non-local blocks."""
    extent: Extent = setting("spacetime", takes="videos", argument=True)
    """Positions that each position attends to; a C2D network with "causal" blocks computes a video
    frame by frame as it arrives (`nonlocalnet watch`)."""
    norm: Norm = setting("batch", argument=True)
    """Normalization; "frozen" uses the constants of --init and suits long clips."""
    sync_norm: bool = False
    """Compute batch norm statistics over all processes; needs GPUs."""
    precise_norm: int | None = setting(None, least=0, compared="json")
    """Batches used to recompute batch norm statistics before every validation and checkpoint
    (official code: 200); 0 keeps running averages. Default: 2% of the updates in between, at most
    200, or 0 if that is below 10."""
    insert: tuple[str, ...] = setting((), takes="videos", argument=True)
    """Module paths or patterns, such as "layer3.*", after which non-local blocks are inserted. Keys
    are pooled (1, 2, 2); --set insert_options={...} gives other arguments of the blocks."""
    dropout: float = setting(0.5, least=0, below=1, takes="videos", argument=True)
    """Dropout probability before the classifier."""
    set: tuple[str, ...] = setting((), parse=parse_options)
    """Other network arguments as NAME=VALUE, such as stem_padding=1."""
    init: str = "auto"
    """Initial weights: a file in any known format, a release (`nonlocalnet zoo`), "imagenet"
    (torchvision's ResNet of the same depth, inflated), "kinetics400" (torchvision's weights of its
    own video networks) or "none". "auto" is kinetics400 for torchvision's video networks, imagenet
    for the depths used in the paper, otherwise none. The classifier is new if the classes differ.
    Non-local blocks missing from the file are new too and start as the identity. The input is
    normalized as the file requires."""
    init_missing: tuple[str, ...] = ()
    """Parts of the network that --init may lack, such as res5 (detectors: layer4); missing tensors
    are initialized randomly."""

    iterations: int = setting(400_000, least=1, free=True, early=True)
    """Number of updates."""
    batch_size: int = setting(8, least=1, early=True)
    """Clips or images per update, over all processes."""
    lr: float = setting(0.00125, above=0)
    """Learning rate; the paper uses 0.01 for 64 clips per update."""
    reference_batch: int | None = setting(None, least=1, compared="json")
    """Clips per update that --lr, --iterations, --lr-steps and --warmup refer to. With another
    --batch-size, the learning rate is scaled in proportion and the others inversely (linear scaling
    rule)."""
    schedule: Schedule = "steps"
    """Learning rate schedule: divide by 10 at each of --lr-steps, or follow half a cosine to 0."""
    lr_steps: tuple[int, ...] | None = setting(None, free=True, compared="json")
    """Iterations at which the learning rate is divided by 10; default: 3/8 and 3/4 of the run."""
    warmup: int = setting(0, least=0)
    """Iterations of linear warm-up from 0."""
    momentum: float = setting(0.9, least=0, below=1)
    """Momentum of SGD with Nesterov."""
    weight_decay: float = setting(1e-4, least=0)
    """Weight decay; norms are excluded."""
    max_grad_norm: float = setting(0.0, least=0)
    """Clip the norm of the gradient over all weights to this value; 0 disables clipping."""
    label_smoothing: float = setting(0.0, least=0, below=1, takes="videos")
    """Share of the target spread over all classes."""
    mixup: float = setting(0.0, least=0, takes="videos")
    """Mix pairs of clips with a ratio drawn from Beta(mixup, mixup); 0 disables it."""
    ema: float = setting(0.0, least=0, below=1)
    """Decay of an exponential moving average of the weights, which is then tested and saved; 0
    disables it."""
    precision: Precision = "auto"
    """Arithmetic; auto is bf16 on GPUs that support it, otherwise fp32."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, augmentation and dropout."""

    accumulate: int = setting(1, least=1, free=True, compared="json")
    """Split each process's share of an update into this many parts, computed one after another, to
    save memory."""
    recompute: bool = setting(False, free=True, compared="json")
    """Store only the inputs of residual blocks and recompute the rest in the backward pass, to save
    memory."""
    parallel: Parallel = setting("ddp", free=True)
    """With torchrun: each process holds the whole network (ddp) or a part of it (fsdp)."""
    compile: bool = setting(False, takes="videos")
    """Compile the network with torch.compile."""

    workers: int = setting(2, least=0, free=True, compared="json")
    """Decoding processes for each training process; 0 decodes in the training process."""
    cache: bool = setting(False, free=True, takes="videos", compared="json")
    """Keep all decoded videos in memory; for small data sets."""
    max_bad: float = setting(0.1, least=0, free=True, compared="json")
    """Share of unreadable training videos above which the run stops with an error."""
    log_every: int = setting(10, least=1, free=True, compared="json")
    """Iterations between lines in metrics.jsonl."""
    eval_every: int | None = setting(None, least=1, free=True, compared="json")
    """Iterations between validations; default: a twentieth of the run, at least 50."""
    checkpoint_every: int | None = setting(None, least=1, free=True, compared="json")
    """Iterations between checkpoints; default: the same as --eval-every."""
    keep: int = setting(3, least=1, free=True, compared="json")
    """Number of checkpoints to keep; older ones are deleted."""
    look: Path | None = setting(None, free=True, takes="videos", compared="json", names="a video")
    """Video for which OUT/look shows, at every validation, what its middle point attends to in the
    last non-local block."""
    look_at: tuple[float, float, float] | None = setting(
        None, free=True, takes="videos", compared="json"
    )
    """FRAME X Y: another point of --look, as frame of the clip and pixel of the video."""
    tensorboard: bool = setting(False, free=True, compared="json")
    """Also write TensorBoard event files; needs the extra tensorboard."""
    tracker: str | None = setting(None, free=True, compared="json", parse=parse_tracker)
    """MODULE:FUNCTION or FILE.py:FUNCTION that sends the numbers of metrics.jsonl elsewhere, such
    as examples/trackers/wandb_run.py:start."""
    device: str = setting("auto", free=True, compared="json")
    """cpu, cuda, ...; auto uses a GPU if there is one."""
    resume: bool = setting(False, free=True, early=True, compared="nowhere")
    """Resume from the newest checkpoint in OUT, if there is one, with the options of that run."""
    recipe: tyro.conf.Suppress[str] = setting("", compared="json")

    def __post_init__(self) -> None:
        takes = find_row(self.model).family.takes
        check_values(self)
        check_takes(self, takes, f"{self.model} learns from {takes}")
        if self.init_missing and self.init == "none":
            raise ValueError(
                f"{option('init_missing')} needs weights to start from: pass {option('init')} too"
            )
        if self.parallel == "fsdp" and (self.ema or self.precision == "fp16"):
            raise ValueError(
                f"{option('parallel', 'fsdp')} works neither with {option('ema')} nor with "
                f"{option('precision', 'fp16')}: use {option('parallel', 'ddp')}, or bf16"
            )
        if self.recompute and self.compile:
            raise ValueError(
                f"{option('recompute')} does not work with {option('compile')}: choose one"
            )

    def resolve(self) -> TrainConfig:
        """Replace defaults that depend on other options by numbers, and make paths absolute.

        The result is what runs and is saved with the run, which can be resumed from any working
        directory. With `reference_batch`, the schedule follows the linear scaling rule (Goyal et
        al. 2017): k times as many clips per update, k times the learning rate and 1/k of the
        iterations.
        """
        takes = find_row(self.model).family.takes
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
        if init == "auto" and "pretrained" in find_row(self.model).family.places:
            init = "kinetics400"
        elif init == "auto":
            known = any(f"_{depth}" in self.model for depth in PRETRAINED)
            init = "imagenet" if known and find_row(self.model).family.from_images else "none"
        elif Path(init).is_file():
            init = str(Path(init).absolute())
        inputs = {name: getattr(self, name) for name in PATHS if name != "out"}
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
            test_side=self.test_side or self.short_side[takes == "images"],
            init=init,
            **{name: Path(path).absolute() for name, path in inputs.items() if path is not None},
        )

    def model_options(self) -> dict[str, Any]:
        """Collect the arguments of `create_model` that differ from its own defaults.

        Raises:
            ValueError: `set` has an argument that another option determines.
        """
        told = parse_options(self.set)
        for name in set(ELSEWHERE) & told.keys():
            by = option(name) if hasattr(self, name) else "the data"
            raise ValueError(f"{name} is set by {by}, not by {option('set')}")
        family = find_row(self.model).family
        takes = family.takes
        options = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if RULES[field.name].argument
            and RULES[field.name].takes in (None, takes)
            and (takes == "images" or getattr(self, field.name) != field.default)
        }
        if self.insert:
            chosen = {name: options[name] for name in ("pairwise", "extent") if name in options}
            options["insert_options"] = {"subsample": (1, 2, 2)} | chosen
        if "arguments" in family.places:
            options = family.load("arguments")(self, options)
        return options | told

    def differences(self, other: TrainConfig) -> list[str]:
        """List the options, except free ones, whose values differ, with both values."""
        # the course of a cosine depends on its length
        fixed = {"iterations"} if self.schedule == "cosine" else set()
        return [
            f"{name} {getattr(self, name)!r}, not {getattr(other, name)!r}"
            for name, rule in RULES.items()
            if (name in fixed or not rule.free) and getattr(self, name) != getattr(other, name)
        ]

    def check_goes_on(self, before: TrainConfig) -> None:
        """Check that a run can be resumed with these options.

        Raises:
            ValueError: an option differs that a resumed run may not change.
        """
        if changed := self.differences(before):
            raise ValueError(
                f"{self.out} cannot be resumed with {'; '.join(changed)}: choose another folder, "
                f"with {option('init')} to start from its weights"
            )

    def as_json(self) -> str:
        """Return the options as JSON, one per line."""
        values = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def find(cls, out: str | Path) -> TrainConfig | None:
        """Read the options of the run in a folder; None if there is none."""
        file = Path(out) / "config.json"
        return cls.read(file) if file.is_file() else None

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Return whether a file holds the options of a run."""
        try:
            cls.read(path)
        except (OSError, ValueError):
            return False
        return True

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Read the options of a run from its config.json.

        Raises:
            ValueError: the file is damaged or from another version.
        """
        try:
            return cls.from_json(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} does not hold the options of a run: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read the JSON that `as_json` returns.

        Raises:
            ValueError: the text is damaged or from another version.
        """
        try:
            values = json.loads(text)
            for name in PATHS:
                if values[name] is not None:
                    values[name] = Path(values[name])
            for name, value in values.items():
                if isinstance(value, list):
                    values[name] = tuple(value)
            return cls(**values)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None


RULES = rules_of(TrainConfig)
FREE = [name for name, rule in RULES.items() if rule.free]  # a resumed run may change these
PATHS = [name for name, kinds in types_of(TrainConfig).items() if Path in kinds]
