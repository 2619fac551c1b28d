"""Training runs of the paper and the official code by name: commands, options, scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nonlocalnet.errors import check_choice, option
from nonlocalnet.networks.registry import find_row
from nonlocalnet.training.config import TrainConfig

# Official config 8gpu_c2d_nonlocal_400k and its scripts; the paper's section 3.3 agrees.
SHORT = {
    "clip": "32x2",
    "iterations": 400_000,
    "lr_steps": (150_000, 300_000),
    "batch_size": 64,
    "reference_batch": 64,
    "lr": 0.01,
    "precise_norm": 200,
    "eval_every": 20_000,
    "checkpoint_every": 10_000,
    "seed": 2,
}
# 8gpu_c2d_nonlocal_affine_400k: two clips a GPU, frozen norms.
LONG = SHORT | {
    "clip": "128x1",
    "batch_size": 16,
    "reference_batch": 16,
    "lr": 0.0025,
    "norm": "frozen",
    "precise_norm": 0,
}
# Paper, section 5.2: one clip a GPU, a crop of 288 where Kinetics has 224, test at 320.
CHARADES = LONG | {
    "crop": 288,
    "short_side": (329, 411),
    "test_side": 320,
    "iterations": 200_000,
    "lr_steps": (75_000, 150_000),
    "batch_size": 8,
    "reference_batch": 8,
    "lr": 0.00125,
}
# The paper says nothing of its schedule on COCO. Detectron's of that year, "1x" and what it trained
# longer: 2 images a GPU, 800 pixels, keypoints at several scales, ImageNet's norms as constants.
COCO: dict[str, Any] = {
    "norm": "frozen",
    "short_side": (800, 800),
    "iterations": 90_000,
    "lr_steps": (60_000, 80_000),
    "batch_size": 16,
    "reference_batch": 16,
    "lr": 0.02,
    "warmup": 500,
    "eval_every": 10_000,
    "checkpoint_every": 5_000,
    "workers": 4,
}
COCO_2X = COCO | {"iterations": 180_000, "lr_steps": (120_000, 160_000)}
KEYPOINTS = COCO | {"short_side": (640, 800)}
KEYPOINTS_S1X = KEYPOINTS | {"iterations": 130_000, "lr_steps": (100_000, 120_000)}
KINETICS = "Kinetics-400 validation, top-1 / top-5"
CHARADES_VAL = "Charades, train / val, mAP"
CHARADES_TEST = "Charades, train+val / held-out test, mAP"


@dataclass(frozen=True)
class Recipe:
    """A training run with a name.

    Attributes:
        name: of the recipe.
        source: table of the paper, or script of the official code.
        options: what differs from `TrainConfig`'s defaults.
        gpus: number of GPUs.
        measure: what `score` measures, and on which data.
        score: reported scores, in percent.
        starts_from: recipe whose weights it starts from, or a description where no recipe or
            release provides them; None is a classifier trained on ImageNet.
        hours: reported training time, if anyone states it.
        note: what else to know.
    """

    name: str
    source: str
    options: dict[str, Any]
    gpus: int
    measure: str
    score: tuple[float, ...]
    starts_from: str | None = None
    hours: float | None = None
    note: str = ""

    @property
    def clip(self) -> str:
        """Frames and rate of a clip; "image" for detectors."""
        return self.options.get("clip", "image")

    def command(self, data: str = "PATH") -> str:
        """Return the command for one machine with `gpus` GPUs."""
        init = "" if self.starts_from is None else " --init START"
        return (
            f"torchrun --nproc-per-node {self.gpus} -m nonlocalnet train {self.name} "
            f"--data {data} --out runs/{self.name}{init}"
        )

    def smoke_test(self) -> dict[str, Any]:
        """Return the options of a run that takes a minute or less on a CPU.

        The network has few channels, the clips are small, and there are four updates. Schedule,
        norms, initial weights, and the places and kind of the non-local blocks are the recipe's. A
        detector has a tiny backbone and tiny heads.
        """
        model = self.options["model"]
        row = find_row(model)
        if row.family.takes == "images":
            small: dict[str, Any] = {
                "model": model.replace(row.fields["backbone"], "tiny"),
                "set": ("box_batch_size_per_image=32", "rpn_post_nms_top_n_test=50"),
                "short_side": (64, 96),
                "init": "none",
            }
        else:
            small = {
                "set": ("widths=[4,4,8,8]", "conv1_channels=4"),
                "crop": 32,
                "short_side": (32, 40),
                "test_side": 40,
                "clip": {"128x1": "32x1", "32x4": "16x4"}.get(self.clip, self.clip),
            }
            if self.starts_from is None:
                small["init"] = "none"
        return self.options | {
            "iterations": 4,
            "lr_steps": (2, 3),
            "batch_size": 4,
            "reference_batch": 4,
            "lr": 1e-3,
            "precise_norm": 2 if self.options.get("norm") != "frozen" else 0,
            "eval_every": 4,
            "checkpoint_every": 2,
            "log_every": 1,
            "workers": 1,
            "warmup": 0,
            **small,
        }


def _paper() -> Iterator[Recipe]:
    """Yield the rows of tables 2 and 4; a row that is in several tables is one recipe."""
    scores: dict[str, tuple[str, float, float]] = {
        "c2d_r50": ("2a, 2b, 2c, 2d, 2f", 71.8, 89.7),
        "c2d_r50_nl1 gaussian": ("2a", 72.5, 90.2),
        "c2d_r50_nl1": ("2a, 2b, 2c", 72.7, 90.5),
        "c2d_r50_nl1 dot_product": ("2a", 72.9, 90.3),
        "c2d_r50_nl1 concatenation": ("2a", 72.8, 90.5),
        "c2d_r50_nl1_res2": ("2b", 72.7, 90.3),
        "c2d_r50_nl1_res3": ("2b", 72.9, 90.4),
        "c2d_r50_nl1_res5": ("2b", 72.3, 90.1),
        "c2d_r50_nl5": ("2c, 2d", 73.8, 91.0),
        "c2d_r50_nl10": ("2c", 74.3, 91.2),
        "c2d_r50_nl5 space": ("2d", 72.9, 90.8),
        "c2d_r50_nl5 time": ("2d", 73.1, 90.5),
        "i3d_r50": ("2f", 73.3, 90.7),
        "i3d_r50_nl5": ("2f", 74.9, 91.6),
        "c2d_r101": ("2c, 2d, 2e, 2f", 73.1, 91.0),
        "c2d_r101_nl1": ("2c", 74.3, 91.3),
        "c2d_r101_nl5": ("2c, 2d, 2e", 75.1, 91.7),
        "c2d_r101_nl10": ("2c", 75.1, 91.6),
        "c2d_r101_nl5 space": ("2d", 74.4, 91.3),
        "c2d_r101_nl5 time": ("2d", 74.4, 90.5),
        "i3d3x3x3_r101": ("2e", 74.1, 91.2),
        "i3d_r101": ("2e, 2f", 74.4, 91.1),
        "i3d_r101_nl5": ("2f", 76.0, 92.1),
    }
    for key, (tables, *score) in scores.items():
        model, _, option = key.partition(" ")
        options = SHORT | {"model": model}
        if option:
            options["extent" if option in ("space", "time") else "pairwise"] = option
        name = "_".join([model, *([option] if option else []), "32x2"])
        yield Recipe(name, f"paper, table {tables}", options, 8, KINETICS, tuple(score))
    long = {
        "c2d_r50": (73.8, 91.2),
        "i3d_r50": (74.9, 91.7),
        "i3d_r50_nl5": (76.5, 92.6),
        "c2d_r101": (75.3, 91.8),
        "i3d_r101": (76.4, 92.7),
        "i3d_r101_nl5": (77.7, 93.3),
    }
    for model, score in long.items():
        options = LONG | {"model": model}
        start = f"{model}_32x2"
        yield Recipe(f"{model}_128x1", "paper, table 2g", options, 8, KINETICS, score, start)
    charades = {"i3d_r101": (35.5, 37.2), "i3d_r101_nl5": (37.5, 39.5)}
    for model, (val, test) in charades.items():
        options, start = CHARADES | {"model": model}, f"{model}_128x1"
        source, name = "paper, table 4", f"{model}_charades"
        yield Recipe(name, source, options, 8, CHARADES_VAL, (val,), start)
        note = "give both tables in one as --data; labels of the held-out test are not public"
        name += "_trainval"
        yield Recipe(name, source, options, 8, CHARADES_TEST, (test,), start, note=note)


def _official() -> Iterator[Recipe]:
    """Yield the scripts of the official code, with the scores of its README."""
    source = "official code, scripts/{}.sh and README"
    sparse = SHORT | {"clip": "8x8"}
    runs = (
        ("run_c2d_baseline_400k_32f", "c2d_r50", SHORT, (72.0, 90.0)),
        ("run_c2d_nlnet_400k_32f", "c2d_r50_nl5", SHORT, (73.9, 91.0)),
        ("run_i3d_baseline_400k_32f", "i3d_r50", SHORT, (73.6, 90.8)),
        ("run_i3d_nlnet_400k_32f", "i3d_r50_nl5", SHORT, (74.9, 91.6)),
        ("run_i3d_baseline_affine_400k_128f", "i3d_r50", LONG, (75.2, 92.0)),
        ("run_i3d_nlnet_affine_400k_128f", "i3d_r50_nl5", LONG, (76.5, 92.7)),
        ("run_c2d_baseline_400k", "c2d_r50", sparse, (71.9, 90.0)),
        ("run_c2d_nlnet_400k", "c2d_r50_nl5", sparse, (74.4, 91.4)),
        ("run_i3d_baseline_400k", "i3d_r50", sparse, (73.4, 90.9)),
        ("run_i3d_nlnet_400k", "i3d_r50_nl5", sparse, (74.7, 91.6)),
        ("run_i3d_baseline_affine_400k", "i3d_r50", LONG | {"clip": "32x4"}, (75.5, 92.0)),
        ("run_i3d_nlnet_affine_400k", "i3d_r50_nl5", LONG | {"clip": "32x4"}, (76.5, 92.6)),
    )
    for name, model, options, score in runs:
        # the official long runs start from the I3D baseline, the non-local ones too
        start = None
        if options.get("norm") == "frozen":
            start = "run_i3d_baseline_400k" + ("_32f" if options["clip"] == "128x1" else "")
        where = source.format(name)
        yield Recipe(name, where, options | {"model": model}, 8, KINETICS, score, start)
    fewer = sparse | {
        "model": "i3d_r50",
        "iterations": 300_000,
        "lr_steps": (150_000, 250_000),
    }
    name = "run_i3d_baseline_300k"
    yield Recipe(name, source.format(name), fewer, 8, KINETICS, (73.2, 90.8))
    four = fewer | {"batch_size": 32, "reference_batch": 32, "lr": 0.005}
    name = "run_i3d_baseline_600k_4gpu"
    longer = four | {"iterations": 600_000, "lr_steps": (300_000, 500_000)}
    incomplete = "the authors' copy of Kinetics lacked about 5%, at a cost of under 0.5%"
    where = source.format(name)
    yield Recipe(name, where, longer, 4, KINETICS, (73.0, 90.4), note=incomplete)
    name = "run_i3d_baseline_300k_4gpu"
    plain = four | {"short_side": (256, 256), "dropout": 0.0}
    yield Recipe(
        name,
        source.format(name) + "; hours as a user quotes the authors in issue 30",
        plain,
        4,
        KINETICS,
        (72.0, 90.1),
        hours=72,
        note=incomplete,
    )


def _coco() -> Iterator[Recipe]:
    """Yield the rows of tables 5 and 6, with Detectron's 1x schedule and its longer one."""
    note = "the paper does not state the schedule; this is Detectron's"
    boxes = {
        "r50_fpn": (38.0, 34.6),
        "r50_fpn_nl1": (39.0, 35.5),
        "r101_fpn": (39.5, 36.0),
        "r101_fpn_nl1": (40.8, 37.1),
        "x152_fpn": (44.1, 39.7),
        "x152_fpn_nl1": (45.0, 40.3),
    }
    for row, score in boxes.items():
        model = f"mask_rcnn_{row}"
        start = "a ResNeXt-152 32x8d trained on ImageNet" if "x152" in row else None
        for schedule, options in (("1x", COCO), ("2x", COCO_2X)):
            own = options | {"model": model}
            name, measure = f"{model}_{schedule}", "COCO val2017, box AP / mask AP"
            yield Recipe(name, "paper, table 5", own, 8, measure, score, start, note=note)
    points = {"r101_fpn": 65.1, "r101_fpn_nl4": 66.0, "r101_fpn_nl5": 66.5}
    for row, ap in points.items():
        model = f"keypoint_rcnn_{row}"
        for schedule, options in (("1x", KEYPOINTS), ("s1x", KEYPOINTS_S1X)):
            own = options | {"model": model}
            name, measure = f"{model}_{schedule}", "COCO val2017, keypoint AP"
            yield Recipe(name, "paper, table 6", own, 8, measure, (ap,), note=note)


RECIPES = {recipe.name: recipe for recipe in (*_paper(), *_official(), *_coco())}


def find_recipe(name: str) -> Recipe:
    """Look up a recipe.

    Raises:
        ValueError: the name is unknown; the message has the nearest one.

    >>> find_recipe("i3d_r50_nl5_32x2").score
    (74.9, 91.6)
    """
    check_choice("recipe", name, RECIPES)
    return RECIPES[name]


def check_start(config: TrainConfig) -> None:
    """Check that the weights are given that a recipe starts from.

    Raises:
        ValueError: they are not; the message says where to get them.
    """
    recipe = RECIPES.get(config.recipe)
    if recipe is None or not recipe.starts_from or config.init not in ("auto", "imagenet", "none"):
        return
    if recipe.starts_from in RECIPES:
        raise ValueError(
            f"{recipe.name} starts from the network of {recipe.starts_from}: pass "
            f"{option('init')} with the best.safetensors of that run or with a release "
            "(nonlocalnet zoo)"
        )
    raise ValueError(
        f"{recipe.name} starts from {recipe.starts_from}; torchvision does not provide these "
        f"weights: pass {option('init')} with a file in torchvision's layout"
    )


def options_for(
    model: str, *, batch_size: int | None = None, iterations: int | None = None
) -> dict[str, Any]:
    """Return the default options of a network: the 1x recipe for a detector.

    Networks of torchvision have clips as their weights need them; others have none.

    The recipe is scaled to the batch size, and its schedule to the number of iterations.

    >>> options_for("c2d_r50")
    {}
    >>> found = options_for("mask_rcnn_r50_fpn", batch_size=4, iterations=9000)
    >>> found["lr"], found["lr_steps"], found["warmup"]
    (0.005, (6000, 8000), 50)
    """
    row = find_row(model)
    if "defaults" in row.family.places:
        return row.family.load("defaults")(model)
    if row.family.takes != "images":
        return {}
    options = {"mask": COCO, "keypoint": KEYPOINTS}[row.fields["kind"]] | {"model": model}
    k = (batch_size or COCO["batch_size"]) / COCO["batch_size"]
    length = iterations or round(COCO["iterations"] / k)
    share = length / COCO["iterations"]
    del options["reference_batch"]
    return options | {
        "batch_size": round(k * COCO["batch_size"]),
        "lr": COCO["lr"] * k,
        "iterations": length,
        "lr_steps": tuple(round(step * share) for step in COCO["lr_steps"]),
        "warmup": round(COCO["warmup"] * share),
        "eval_every": None,
        "checkpoint_every": None,
    }


def options_of(name: str, *, smoke_test: bool = False) -> dict[str, Any]:
    """Return the options of a recipe, or of its smoke test, that differ from the defaults."""
    recipe = find_recipe(name)
    return (recipe.smoke_test() if smoke_test else recipe.options) | {"recipe": name}
