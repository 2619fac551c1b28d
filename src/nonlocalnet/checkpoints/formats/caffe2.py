"""The official Caffe2 checkpoints (video-nonlocal-net, `lib/models`).

PySlowFast's Caffe2 files have the same names, but their networks pad pool1; Slow and SlowFast are
its alone. Those of the long-term feature banks have the same names, too, and are another network:
`networks/rows.py` has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import torch

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats import pyslowfast
from nonlocalnet.checkpoints.infer import FAST, infer, is_slow
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.report import differ
from nonlocalnet.checkpoints.translate import COUNTER, Rules, Translated, rename
from nonlocalnet.networks.arguments import DEFAULTS

ORIGIN = "Caffe2 (video-nonlocal-net)"
PROJECTS = ("video-nonlocal-net", "PySlowFast", "video-long-term-feature-banks")
# `_riv` is the running variance, in spite of its name.
NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
# Arguments of `VideoResNet` that neither names nor shapes show.
UNSAID = (
    "temporal_stride",
    "stem_padding",
    "pool1_time",
    "pool2_time",
    "strides",
    "dilations",
    "pairwise",
    "extent",
    "scale",
    "subsample",
    "subsample_position",
    "temporal_group",
    "window",
)
AFFINE = {"w": "weight", "b": "bias"}
PATHWAYS = {"": "", "t_": FAST}  # what begins the names of the slow, or only, pathway, and the fast


def _rules(last: Mapping[str, int] | None = None) -> Iterator[tuple[str, str]]:
    """Give the rules; lateral convolutions are named for the last block of a stage."""
    non_local = "res{s}.non_local{i}"
    for their_prefix, prefix in PATHWAYS.items():
        their_block, block = f"{their_prefix}res{{s}}_{{i}}", f"{prefix}res{{s}}.block{{i}}"
        yield f"{their_prefix}conv1_w", f"{prefix}conv1.weight"
        yield f"{their_block}_branch1_w", f"{block}.shortcut.conv.weight"
        for branch in "abc":
            yield f"{their_block}_branch2{branch}_w", f"{block}.conv_{branch}.weight"
        for theirs, ours in NORM.items():
            yield f"{their_prefix}res_conv1_bn_{theirs}", f"{prefix}norm1.{ours}"
            yield f"{their_block}_branch1_bn_{theirs}", f"{block}.shortcut.norm.{ours}"
            for branch in "abc":
                yield f"{their_block}_branch2{branch}_bn_{theirs}", f"{block}.norm_{branch}.{ours}"
    laterals = {"t_pool1": "pool1", "t_res{s}_{i}_branch2c_bn": "res{s}"}
    if last is not None:
        laterals = {"t_pool1": "pool1"}
        laterals |= {f"t_{stage}_{i}_branch2c_bn": stage for stage, i in last.items()}
    for start, part in laterals.items():
        yield f"{start}_subsample_w", f"lateral.{part}.conv.weight"
        for theirs, ours in NORM.items():
            yield f"{start}_subsample_bn_{theirs}", f"lateral.{part}.norm.{ours}"
    for theirs, ours in NORM.items():
        yield f"nonlocal_conv{{s}}_{{i}}_bn_{theirs}", f"{non_local}.norm.{ours}"
    for theirs, ours in AFFINE.items():
        for name in ("theta", "phi", "g"):
            yield f"nonlocal_conv{{s}}_{{i}}_{name}_{theirs}", f"{non_local}.{name}.{ours}"
        yield f"nonlocal_conv{{s}}_{{i}}_out_{theirs}", f"{non_local}.w_z.{ours}"
        yield f"pred_{theirs}", f"fc.{ours}"


RULES = Rules(_rules())
IGNORED = {".*_momentum": "state of the optimizer", "lr|model_iter": "state of the training"}


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    `pred_w` is (K, C), or (K, C, 1, 1, 1) in the test network: the same numbers. Without
    statistics, the norms are folded constants. With 4-D kernels, it is an image classifier.

    Raises:
        ValueError: it is not a complete C2D or I3D network.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=PROJECTS, ignored=IGNORED, prefix="gpu_0/")
    pred = result.tensors.get("fc.weight")
    if pred is not None and len(pred.shape) == 5 and pred.shape[2:] == (1, 1, 1):
        result.tensors["fc.weight"] = pred.map(pred.shape[:2], lambda weight: weight.flatten(1))
    if len(result.tensors["conv1.weight"].shape) == 4:
        result.flat = True
        result.cleaned = not any(name.endswith("running_var") for name in result.tensors)
        return result
    result.fields = infer(result.tensors, slow=True)
    if "beta" in result.fields or is_slow(result.fields):
        result.fields |= {"stem_padding": 1, "temporal_stride": 1}
        pyslowfast.ask(result)
        return result
    result.asked["clip"] = "'8x8', '32x2', '32x4' or '128x1'"
    _assume(result)
    return result


def _assume(result: Translated) -> None:
    """Assume what is true for official networks, for all of `UNSAID` that the network has."""
    assumed, why = result.assumed, "as in every official release"
    assumed["stem_padding"] = (
        0,
        "as in video-nonlocal-net; PySlowFast's files need 1, C2D_NOPOOL also pool2_time=1",
    )
    if blocks := result.fields["non_local"]:
        if "pairwise" not in result.fields:
            form = f"{why}; the dot product has the same tensors"
            assumed["pairwise"] = ("embedded_gaussian", form)
        assumed["scale"], assumed["subsample"] = ("auto", why), ((1, 2, 2), why)
        assumed["subsample_position"] = ("before", why)
        assumed["extent"] = ("spacetime", why)
    assumed["pool2_time"] = (2, why)
    stages, other = len(result.fields["depths"]), ""
    if result.fields["norm"] == "frozen" and blocks:
        other = (
            "; files of long-term feature banks have the same names and are for another network: "
            "for them pass release='lfb_kinetics400_r50' or another of `nonlocalnet zoo 'lfb*'`"
        )
    assumed["strides"] = ((1, *[2] * (stages - 1)), why + other)
    assumed["dilations"] = ((1,) * stages, why + other)
    derived = ["temporal_stride", "pool1_time", "window", "mean", "std"]
    if result.fields["norm"] == "frozen" and "res3" in blocks:
        derived.append("temporal_group")
    result.derived |= dict.fromkeys(derived, why)


def export(state: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Translate our tensors to the official names, without the batch counters of norms.

    Raises:
        ValueError: the official networks have no such parameter.
    """
    blobs, last = {}, {}
    for name in state:
        if block := re.match(r"fast\.(res\d)\.block(\d+)\.", name):
            last[block[1]] = max(last.get(block[1], 0), int(block[2]))
    rules = Rules(_rules(last))
    for name, entry in state.items():
        if name.endswith(COUNTER):
            continue
        theirs = rules.to_theirs(name)
        if theirs is None:
            raise ValueError(f"the official networks have nothing like {name}")
        blobs[theirs] = entry
    return blobs


def list_unsaid(arguments: Mapping[str, Any], clip: str) -> list[str]:
    """List what a file cannot say of a network: what `load` asks for, and what differs from usual.

    Args:
        arguments: all of the network's class.
        clip: FRAMESxRATE.
    """
    stages = len(arguments["depths"])
    usual = DEFAULTS | {"strides": (1, *[2] * (stages - 1)), "dilations": (1,) * stages}
    asked = {"alpha"}
    if two_pathways := "alpha" in arguments:
        asked |= {"pairwise", "subsample"} if arguments["non_local"] else set()
    if two_pathways or is_slow(arguments):
        usual |= {"stem_padding": 1, "pool2_time": 1}
    return [f"clip={clip!r}"] + [
        f"{name}={value!r}"
        for name, value in arguments.items()
        if name in asked or (name in UNSAID and differ(name, value, usual[name]))
    ]


def write(file: BinaryIO, blobs: Mapping[str, LazyTensor]) -> None:
    """Write float32 arrays as Python 2 would: {"blobs": {name: array}}, protocol 2.

    Names and bytes are Python 2 strings, so that Caffe2's own loader reads them.
    """
    dtype = b"cnumpy\ndtype\n" + b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ" + b"\xff" * 4
    dtype += b"J" + b"\xff" * 4 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    file.write(b"\x80\x02}" + _short_string(b"blobs") + b"}(")
    for name, entry in blobs.items():
        shape = b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in entry.shape) + b"t"
        raw = entry.read().to(torch.float32).contiguous().numpy().tobytes()
        file.write(
            _short_string(name.encode("ascii")) + array + b"(K\x01" + shape + dtype + b"\x89"
        )
        file.write(b"T" + len(raw).to_bytes(4, "little") + raw + b"tb")
    file.write(b"us.")


def _short_string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text
