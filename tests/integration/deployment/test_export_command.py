import os

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.deployment.export import VideoProgram
from nonlocalnet.deployment.onnx_network import OnnxNetwork


def test_a_file_is_exported_in_int8_and_predicts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny", num_classes=2, clip="2x4", crop=24)
    info = WeightsInfo(model.config, ["odd", "even"], short_side=32)
    save_weights(model, "w.safetensors", info)
    write_same_color(tmp_path / "videos", 4, 0)
    words = ["--weights", "w.safetensors", "w.onnx", "--int8", "videos", "--most", "4"]
    assert main(["export", *words]) == 0
    said = capsys.readouterr().out
    assert "compared on 2x3x2x32x32, 1x3x2x32x32, 3x3x2x32x32" in said
    assert "int8, on 2 clips that did not calibrate it" in said
    assert "wrote w.onnx" in said
    clips = torch.rand(3, 3, 2, 32, 32)
    expected = VideoProgram(model.eval(), info, "probabilities")(clips)
    change = OnnxNetwork("w.onnx").probabilities(clips) - expected
    assert 0 < change.abs().max() < 0.05
    assert os.path.getsize("w.onnx") < 0.8 * os.path.getsize("w.safetensors")
    assert main(["predict", "videos", "--weights", "w.onnx", "--out", "p.csv"]) == 0
    assert (tmp_path / "p.csv").read_text().count("odd") == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["w.tflite"], "ending of the file must be one of '.onnx', '.pt2'; got '.tflite'"),
        (["w.pt2", "--int8", "videos"], "--int8 is for .onnx files; got w.pt2"),
        (["w.onnx", "--most", "9"], "--most is for --int8: give it, too"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_read(words, said, tmp_path, capsys):
    (tmp_path / "w.safetensors").touch()
    assert main(["export", "--weights", str(tmp_path / "w.safetensors"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "again.onnx"], "is exported already; name the weights that it is from"),
        (["look", "v.mp4"], "name the weights that it is from"),
        (["follow", "v.mp4", "--at", "0,1,1"], "name the weights that it is from"),
        (["predict", "v.mp4", "--set", "pairwise=gaussian"], "is a fixed program: give"),
    ],
)
def test_an_exported_file_is_refused_where_it_does_not_serve(words, said, tmp_path, capsys):
    for name in ("w.onnx", "v.mp4"):
        (tmp_path / name).touch()
    words = [str(tmp_path / word) if word == "v.mp4" else word for word in words]
    assert main([*words, "--weights", str(tmp_path / "w.onnx")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
