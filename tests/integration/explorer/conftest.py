from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.data.synthetic import generate_same_color
from nonlocalnet.data.video.write import write_video
from nonlocalnet.explorer.library import Library
from nonlocalnet.networks.video_resnet import VideoResNet


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> VideoResNet:
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    save_weights(model, path, WeightsInfo(model.config, ["different", "same"], short_side=32))
    return nl.load(path).eval()


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "squares.mp4"
    write_video(path, generate_same_color(0)[0])
    return path


@pytest.fixture(scope="module")
def library(network, video, tmp_path_factory):
    """One for all tests of a file: its decoding process takes seconds to start."""
    folder = tmp_path_factory.mktemp("odd")
    odd = folder / "b\udce9\u202e\n<b>.mp4"  # a name in Latin-1 on disk
    odd.write_bytes(video.read_bytes())
    library = Library({"tiny": network}, [video, odd], tmp_path_factory.mktemp("store"))
    yield library
    library.close()
