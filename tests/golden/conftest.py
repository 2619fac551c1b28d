import os

import pytest
import torch

# Names, clips and options of our table for a configuration of the official code.
ARCHITECTURES = {1: "c2d_r50", 2: "i3d_r50", 3: "c2d_r101", 4: "i3d_r101"}
CLIPS = {
    ("resnet_video", 8): "8x8",
    ("resnet_video", 32): "32x4",
    ("resnet_video_org", 32): "32x2",
    ("resnet_video_org", 128): "128x1",
}


def official(effective: dict) -> dict:
    """Say an official configuration's `effective` values as arguments of `create_model`."""
    blocks = effective["NONLOCAL.CONV3_NONLOCAL"], effective["NONLOCAL.CONV4_NONLOCAL"]
    assert blocks[0] == blocks[1], "no name for blocks in one stage alone"
    arguments = {
        "name": ARCHITECTURES[effective["MODEL.VIDEO_ARC_CHOICE"]] + ("_nl5" if blocks[0] else ""),
        "num_classes": effective["MODEL.NUM_CLASSES"],
        "clip": CLIPS[effective["MODEL.MODEL_NAME"], effective["TRAIN.VIDEO_LENGTH"]],
    }
    if effective["MODEL.USE_AFFINE"]:
        arguments["norm"] = "frozen"
    if not effective["NONLOCAL.USE_SOFTMAX"]:
        arguments["pairwise"] = "dot_product"
    elif not effective["NONLOCAL.USE_SCALE"]:
        arguments["scale"] = None
    if not effective["NONLOCAL.USE_MAXPOOL"]:
        arguments["subsample"] = None
    return arguments


@pytest.fixture(scope="session")
def create_arguments():
    return official


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """float32 without shortcuts: the tolerances are those of fp32 rounding."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(autouse=True, scope="module")
def threads():
    """A pass takes seconds: use the cores, unless the workers of xdist do."""
    before = torch.get_num_threads()
    if "PYTEST_XDIST_WORKER" not in os.environ and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(os.cpu_count() or 1, 8))
    yield
    torch.set_num_threads(before)
