"""Break the code in small ways, one at a time, and tell whether the tests notice.

    python benchmarks/mutations.py [WORDS ...] [--list]

Each mutation replaces a text that occurs once in `src`, wherever it stands now, in a copy of the
repository, and runs the tests of the rooms that it concerns until one fails. Prints a table:
caught, survived (a test is missing), moved (the text is not there, or not once: write it anew) or
fails as it is (the tests do, without the fault).
With words, only mutations whose names hold one of them. Exit code: how many were not caught.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPS, BLOCKS, NETWORKS = "unit/ops", "unit/blocks", "unit/networks"
FILES, LOADED = "unit/checkpoints/test_formats.py", "unit/checkpoints/test_load.py"
VIDEO, TRAINING = "integration/data", "integration/training"


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Args:
        name: room and what is wrong.
        old, new: the text that is replaced, and what takes its place.
        tests: folders and files below `tests`, the quickest to notice first.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutation(name: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, old, new, tests)


MUTATIONS = [
    # the operation
    mutation("ops: scale lost in backward", ".mul_(p).mul_(scale)", ".mul_(p)", OPS),
    mutation("ops: scale lost in forward", "    if scale != 1:", "    if scale is None:", OPS),
    mutation(
        "ops: the masked sum is divided by all keys",
        "g = g.masked_fill(padding, 0) / count[:, None, None]",
        "g = g.masked_fill(padding, 0) / g.shape[1]",
        OPS,
    ),
    mutation("ops: divisor is the width", "alpha=1 / g.shape[1])", "alpha=1 / g.shape[2])", OPS),
    mutation(
        "ops: the fused kernel attends to the padding",
        "attn_mask=attended, scale=scale",
        "attn_mask=None, scale=scale",
        OPS,
    ),
    mutation(
        "ops: rows of the gradient moved by one",
        "_add_product(dphi, ds.mT, queries)\n        part.copy_",
        "_add_product(dphi, ds.mT, queries.roll(1, 1))\n        part.copy_",
        OPS,
    ),
    mutation(
        "ops: half precision is summed in half",
        "return dtype if dtype.itemsize > 2 else torch.float32",
        "return dtype",
        OPS,
    ),
    # blocks
    mutation(
        "blocks: keys are counted upwards",
        "tuple(max(s // k, 1) for s, k",
        "tuple(max(-(-s // k), 1) for s, k",
        BLOCKS,
        "unit/inspection",
    ),
    mutation(
        "blocks: a new block is not the identity",
        "nn.init.zeros_(next(value for value in last",
        "nn.init.ones_(next(value for value in last",
        BLOCKS,
    ),
    mutation(
        "blocks: hooks before are not called",
        "        or module._forward_pre_hooks\n        or module._backward_hooks\n"
        "        or module._backward_pre_hooks\n        or every_module._global_forward_hooks\n",
        "        or module._backward_hooks\n"
        "        or module._backward_pre_hooks\n        or every_module._global_forward_hooks\n",
        BLOCKS,
    ),
    mutation(
        "blocks: global hooks are not called",
        "        or every_module._global_forward_hooks\n",
        "",
        BLOCKS,
    ),
    mutation(
        "blocks: groups run backwards",
        "y = y.unflatten(0, (batch, -1)).flatten(1, 2)",
        "y = y.unflatten(0, (batch, -1)).flip(1).flatten(1, 2)",
        BLOCKS,
    ),
    mutation(
        "blocks: a probe takes the batch for a size",
        "return axis == 0 and tensor.shape[0] == batch",
        "return False",
        BLOCKS,
    ),
    # networks
    mutation(
        "networks: stride in time is lost",
        "stride=(temporal_stride, 2, 2),",
        "stride=(1, 2, 2),",
        NETWORKS,
    ),
    mutation(
        "networks: res2 has a stride",
        "stride=strides[index] if i == 0 else 1",
        "stride=2 if i == 0 else 1",
        NETWORKS,
    ),
    mutation(
        "networks: groups in every stage",
        "temporal_group=groups.get(stage)",
        'temporal_group=groups.get("res3")',
        NETWORKS,
    ),
    mutation(
        "networks: mean before softmax",
        "        p = logits.sigmoid() if multi_label else logits.softmax(dim=1)\n"
        "        return p.mean(dim=(2, 3))",
        "        logits = logits.mean(dim=(2, 3))\n"
        "        return logits.sigmoid() if multi_label else logits.softmax(dim=1)",
        NETWORKS,
    ),
    # checkpoints
    mutation(
        "checkpoints: inflated kernels are not divided",
        "expand(-1, -1, frames, -1, -1) / frames",
        "expand(-1, -1, frames, -1, -1)",
        "unit/checkpoints/test_inflation.py",
    ),
    mutation(
        "checkpoints: mean and variance change places",
        '"rm": "running_mean", "riv": "running_var"',
        '"riv": "running_mean", "rm": "running_var"',
        "unit/checkpoints/test_caffe2.py",
    ),
    mutation(
        "checkpoints: momentum is a parameter",
        '".*_momentum": "state of the optimizer"',
        '".*_velocity": "state of the optimizer"',
        FILES,
    ),
    mutation(
        "checkpoints: an unknown key is dropped",
        "        elif (ours := rules.to_ours(bare)) is None:\n"
        "            result.unknown.append(name)",
        "        elif (ours := rules.to_ours(bare)) is None:\n            pass",
        FILES,
    ),
    mutation(
        "checkpoints: colors stay blue, green, red",
        "lambda weight: weight.flip(1))",
        "lambda weight: weight)",
        "unit/checkpoints",
        "integration/checkpoints",
        "integration/detection/test_networks.py",
    ),
    mutation(
        "checkpoints: a checksum is not compared",
        "data[place : place + len(EMPTY)] != _compute(data, place)",
        "data[place : place + len(EMPTY)] == EMPTY",
        "unit/checkpoints/test_checksum.py",
    ),
    # data
    mutation(
        "data: a key flag is believed",
        "return kind in idr, sets",
        "return True, sets",
        f"{VIDEO}/test_restarts.py",
    ),
    mutation(
        "data: the last clip is never drawn",
        "rng.randint(0, max(0, num_frames - clip.span))",
        "rng.randint(0, max(0, num_frames - clip.span - 1))",
        "unit/data/test_sampling.py",
    ),
    mutation(
        "data: test clips begin at the second part",
        "return j * frames // clips",
        "return (j + 1) * frames // clips",
        "unit/data/test_sampling.py",
    ),
    mutation(
        "data: hidden files are read",
        'entry.name.startswith("."):',
        'entry.name.startswith("..."):',
        "unit/data/test_find_videos.py",
    ),
    mutation(
        "data: underscores in class names count",
        'name.replace("_", " ").split()',
        "name.split()",
        "unit/data",
    ),
    # training
    mutation(
        "training: a resumed run draws from the start",
        "            start=self.iteration,\n",
        "            start=0,\n",
        f"{TRAINING}/test_resume.py",
    ),
    mutation(
        "training: every process learns from the same clips",
        "first = update * self.batch_size + rank() * part",
        "first = update * self.batch_size",
        f"{TRAINING}/test_inputs.py",
        f"{TRAINING}/test_distributed.py",
    ),
    mutation(
        "training: every process drops the same features",
        "torch.manual_seed(derive_seed(config.seed, self.iteration, rank()))",
        "torch.manual_seed(derive_seed(config.seed, self.iteration))",
        TRAINING,
    ),
    mutation(
        "training: the worst weights are the best",
        "metric.best([self.best, value]) != self.best",
        "metric.best([self.best, value]) == self.best",
        f"{TRAINING}/test_trainer.py",
    ),
    mutation(
        "training: warm-up begins at zero",
        "base * (iteration + 1) / warmup",
        "base * iteration / warmup",
        "unit/training",
    ),
    mutation(
        "training: norms are decayed",
        '{"params": norms, "weight_decay": 0.0}',
        '{"params": norms, "weight_decay": weight_decay}',
        "unit/training",
    ),
    # evaluation
    mutation(
        "evaluation: the lowest scores count",
        "scores.topk(min(k, scores.shape[1]), dim=1)",
        "scores.topk(min(k, scores.shape[1]), dim=1, largest=False)",
        "unit/evaluation",
    ),
    mutation(
        "evaluation: ties are steps of their own",
        "last_of_ties = torch.cat([scores[1:] != scores[:-1], ",
        "last_of_ties = torch.cat([scores[1:] == scores[1:], ",
        "unit/evaluation",
    ),
    mutation(
        "evaluation: the best of the views, not their mean",
        "mean = scores.mean(dim=0)",
        "mean = scores.amax(dim=0)",
        "integration/evaluation",
    ),
    # detection
    mutation(
        "detection: category 0 is the background",
        "not 1 <= ids[0] <= ids[-1]",
        "not 0 <= ids[0] <= ids[-1]",
        "unit/detection",
    ),
    mutation(
        "detection: left eyes stay left",
        "tv_tensors.wrap(points[:, self.places], like=points)",
        "tv_tensors.wrap(points, like=points)",
        "unit/detection",
    ),
    # inspection
    mutation(
        "inspection: cells lie half a cell aside",
        "return self.center(i) - self.stride / 2, self.center(i) + self.stride / 2",
        "return self.center(i), self.center(i) + self.stride",
        "unit/inspection",
    ),
    mutation(
        "inspection: height and width change places",
        "x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)",
        "x.permute(0, 2, 4, 3, 1).flatten(2, 3).flatten(0, 1)",
        BLOCKS,
        "unit/inspection",
    ),
    mutation(
        "inspection: every row is even",
        "float(uneven(self.weights.flatten(), self.count)) < EVEN",
        "float(uneven(self.weights.flatten(), self.count)) < 1",
        "unit/inspection",
    ),
    # command
    mutation(
        "cli: errors end with 0",
        'sys.stderr.write(f"{who}: {text}\\n")\n    return 2',
        'sys.stderr.write(f"{who}: {text}\\n")\n    return 0',
        "integration/cli/test_runs_commands.py",
        "integration/cli/test_cli.py",
    ),
    mutation(
        "cli: messages act on the terminal",
        'text = "\\n".join(printable(line, PATH_LIMIT) for line in message.split("\\n"))',
        "text = message",
        "unit",
        "integration/cli",
    ),
]


def find(old: str, source: Path) -> Path | None:
    """Find the only file that has the text, and has it once."""
    counts = {path: path.read_text().count(old) for path in source.rglob("*.py")}
    there = [path for path, count in counts.items() if count]
    return there[0] if len(there) == 1 and counts[there[0]] == 1 else None


def judge(one: Mutation, copy: Path) -> str:
    path = find(one.old, copy / "src")
    if path is None:
        return "moved"
    if not passes(one.tests, copy):
        return "fails as it is"
    before = path.read_text()
    path.write_text(before.replace(one.old, one.new))
    try:
        return "survived" if passes.__wrapped__(one.tests, copy) else "caught"
    finally:
        path.write_text(before)


@functools.cache
def passes(tests: tuple[str, ...], copy: Path) -> bool:
    """Run tests in the copy; without a fault, each set of them once."""
    paths = [str(copy / "tests" / name) for name in tests]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    shared = os.environ.get("NONLOCALNET_SHARED", str(ROOT.parent / "shared"))
    own = {"PYTHONPATH": str(copy / "src"), "NONLOCALNET_SHARED": shared}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths],
        cwd=copy,
        env=os.environ | own,
        capture_output=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run {tests}: {done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def run(mutations: list[Mutation]) -> Iterator[tuple[Mutation, str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for name in ("src", "tests", "examples", "docs"):
            shutil.copytree(ROOT / name, copy / name)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy)
        for one in mutations:
            started = time.monotonic()
            yield one, judge(one, copy), time.monotonic() - started


def main(words: list[str]) -> int:
    only = [word for word in words if not word.startswith("--")]
    chosen = [m for m in MUTATIONS if not only or any(word in m.name for word in only)]
    if "--list" in words:
        for one in chosen:
            print(f"{one.name:52} {'' if find(one.old, ROOT / 'src') else 'moved'}")
        return 0
    missed = 0
    for one, result, seconds in run(chosen):
        missed += result != "caught"
        print(f"{one.name:52} {result:14} {seconds:4.0f} s", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return missed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
