"""Everything a training run is told, with the paper's values as defaults where they exist."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nonlocalnet.blocks.non_local_block import Extent
from nonlocalnet.blocks.norm import Norm
from nonlocalnet.errors import check_choice
from nonlocalnet.models.registry import list_models
from nonlocalnet.ops import Pairwise

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """Options of `nonlocalnet train`."""

    data: Path
    """Training videos: a folder with one folder per class, a list file of "PATH LABEL" lines, or a
    Charades-style .csv (many labels a video)."""
    out: Path
    """Folder of the run: metrics.jsonl, checkpoint.pt, model.safetensors, config.json."""
    val: Path | None = None
    """Validation videos, in the same form."""
    root: Path | None = None
    """Where relative paths of a list or csv start; by default its own folder."""
    classes: Path | None = None
    """File of class names, one a line in label order."""

    model: str = "i3d_r50_nl5"
    """A name of `nonlocalnet models`."""
    clip: str = "8x8"
    """FRAMESxRATE: that many frames, every RATE-th one."""
    crop: int = 224
    """Side of the training crop, pixels."""
    short_side: tuple[int, int] = (256, 320)
    """Range of the short side in training, pixels; testing uses the lower end."""
    flip: float = 0.5
    """Probability of a mirrored clip."""
    pairwise: Pairwise = "embedded_gaussian"
    """The pairwise function of the non-local blocks."""
    extent: Extent = "spacetime"
    """Which positions a position sees."""
    norm: Norm = "batch"
    """"frozen" for long clips: norms are constants, from --init."""
    dropout: float = 0.5
    """Before the classifier."""
    init: str = "auto"
    """Weights to start from: a file of any known format, a release (nonlocalnet zoo), "imagenet"
    (torchvision's ResNet of that depth, inflated) or "none"; "auto" is imagenet for ResNet-50 and
    -101, else none. The classifier is new if its classes are others, and so are non-local blocks
    that the file lacks: the identity at start. The input is normalised as the file's was."""

    iterations: int = 400_000
    """Updates of the weights."""
    batch_size: int = 8
    """Clips per update."""
    lr: float = 0.00125
    """Learning rate; the paper's 0.01 is for 64 clips per update."""
    lr_steps: tuple[int, ...] | None = None
    """Iterations at which the rate is divided by 10; by default at 3/8 and 3/4 of the run."""
    warmup: int = 0
    """Iterations of linear warm-up."""
    momentum: float = 0.9
    """Of SGD with Nesterov."""
    weight_decay: float = 1e-4
    """On everything but norms."""
    precision: Precision = "auto"
    """Arithmetic: auto is bf16 on a GPU that has it, fp32 elsewhere."""
    seed: int = 0
    """Of initial weights, order of videos and augmentation."""

    workers: int = 2
    """Processes that decode; 0 decodes in the main one."""
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
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    resume: bool = False
    """Go on from the checkpoint in OUT."""

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "log_every", "crop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive; got {self.lr}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more; got {self.workers}")
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("model", self.model, list_models())

    @property
    def steps(self) -> tuple[int, ...]:
        """The iterations at which the learning rate falls."""
        if self.lr_steps is None:
            return (3 * self.iterations // 8, 3 * self.iterations // 4)
        return self.lr_steps

    @property
    def eval_interval(self) -> int:
        """Iterations between validations."""
        return self.eval_every or max(self.iterations // 20, 50)

    @property
    def checkpoint_interval(self) -> int:
        """Iterations between checkpoints."""
        return self.checkpoint_every or self.eval_interval

    def model_options(self) -> dict[str, Any]:
        """Collect the arguments of `create_model` that differ from its own defaults."""
        options = {
            "pairwise": (self.pairwise, "embedded_gaussian"),
            "extent": (self.extent, "spacetime"),
            "norm": (self.norm, "batch"),
            "dropout": (self.dropout, 0.5),
        }
        return {key: value for key, (value, default) in options.items() if value != default}

    def save(self, path: Path) -> None:
        """Write the options as JSON."""
        values = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }
        path.write_text(json.dumps(values, indent=2) + "\n")
