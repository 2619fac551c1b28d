"""A network that `nonlocalnet train --extent causal` made computes a video while it arrives."""

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import generate_same_color, write_same_color
from nonlocalnet.data.transforms import normalize
from nonlocalnet.data.video.reader import decode_all
from nonlocalnet.data.video.write import write_video
from nonlocalnet.ops import PAIRWISE

FRAMES = 1000


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A data set of eight videos, and a video of a thousand frames."""
    folder = tmp_path_factory.mktemp("causal")
    write_same_color(folder / "videos", 8, seed=0)
    parts = [generate_same_color((1, i))[0] for i in range(FRAMES // 8)]
    write_video(folder / "long.mp4", np.concatenate(parts))
    return folder


def train(work, folder, pairwise):
    """Train for a few updates, from a network whose blocks are not the identity."""
    torch.manual_seed(0)
    options = {"clip": "8x1", "crop": 32, "num_classes": 2, "pairwise": pairwise}
    start = nl.create_model("c2d_tiny_nl2", extent="causal", **options)
    for module in start.modules():
        if isinstance(module, torch.nn.BatchNorm3d):  # those of residual branches begin at 0
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
        elif isinstance(module, nl.NonLocalBlock):
            for x in module.parameters():
                torch.nn.init.normal_(x, std=0.3)
    save_weights(start, folder / "start.safetensors", WeightsInfo(start.config))
    words = f"--model c2d_tiny_nl2 --extent causal --pairwise {pairwise} --clip 8x1 --crop 32"
    words += f" --short-side 32 32 --init {folder}/start.safetensors --iterations 3"
    words += " --batch-size 4 --lr 0.01 --warmup 0 --workers 0 --device cpu"
    words += f" --data {work}/videos --out {folder}/run"
    assert main(["train", *words.split()]) == 0
    network = nl.load(folder / "run/model.safetensors").eval().requires_grad_(False)
    for name, x in start.named_parameters():
        if "non_local" in name and name.endswith("weight"):
            assert (network.get_parameter(name) != x).any(), name
    return network


@pytest.mark.parametrize(
    ("pairwise", "at_once"),
    [
        ("dot_product", 8),
        *(pytest.param(form, 1, marks=pytest.mark.slow) for form in PAIRWISE),
    ],
)
def test_a_thousand_frames_online_equal_the_clip_of_a_thousand_frames(
    work, tmp_path, pairwise, at_once
):
    """Each error is that of float32, against the same network in float64."""
    network = train(work, tmp_path, pairwise)
    video = normalize(decode_all(work / "long.mp4").transpose(0, 1)[None])
    assert video.shape == (1, 3, FRAMES, 32, 32)
    offline = network(video)
    stream = nl.Stream(network)
    for frames in video.split(at_once, dim=2):
        online = stream(frames)
    truth = network.double()(video.double())
    error = (offline - truth).abs().max()
    assert 0 < error < 1e-4 * truth.abs().max()
    assert (online - truth).abs().max() < 4 * error + 1e-6 * truth.abs().max()
    # the blocks look back, and matter: frames by themselves give other logits
    alone = torch.stack([network(frame) for frame in video[:, :, ::50].double().split(1, 2)])
    half = network(video[:, :, ::50].double())
    assert (alone.mean(0) - half).abs().max() > 100 * error
