"""`nonlocalnet convert`, and foreign weights in the other commands, as a user meets them."""

import json

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.load import read_info
from nonlocalnet.checkpoints.save import export_weights
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import generate_same_color
from nonlocalnet.data.video.write import write_video

NARROW = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3, "crop": 64}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nl.create_model("c2d_r50_nl5", clip="8x8", **NARROW).eval()


@pytest.fixture
def file(model, tmp_path):
    export_weights(model, tmp_path / "x.pkl", "caffe2")
    return tmp_path / "x.pkl"


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_caffe2_to_ours_and_back(capsys, model, file, tmp_path):
    ours = tmp_path / "y.safetensors"
    code, out, err = run(capsys, "convert", file, ours, "--clip", "8x8")
    assert code == 0
    assert "Caffe2 (video-nonlocal-net): c2d_r50_nl5, 3 classes, clip 8x8" in out
    assert "0 problems" in out
    assert "note: stem_padding=0 is assumed" in err
    info = read_info(ours)
    assert info.facts["origin"] == "Caffe2 (video-nonlocal-net)"
    assert len(info.facts["sha256"]) == 64
    code, out, err = run(capsys, "convert", ours, tmp_path / "z.pkl")
    assert code == 0
    assert "z.pkl cannot hold clip='8x8'" in err
    assert (tmp_path / "z.pkl").read_bytes() == file.read_bytes()


def test_a_release_by_its_name_needs_no_more_and_keeps_its_facts(capsys, tmp_path):
    release = tmp_path / "c2d_nonlocal_8x8_IN_pretrain_400k.pkl"
    narrow = {"widths": (4, 8, 16, 32), "conv1_channels": 4}
    export_weights(nl.create_model("c2d_r50_nl5", **narrow), release, "caffe2")
    code, _, err = run(capsys, "convert", release, tmp_path / "y.safetensors")
    assert (code, err) == (0, "")
    info = read_info(tmp_path / "y.safetensors")
    facts = info.facts
    assert info.classes[:2] == ["abseiling", "air drumming"]
    assert facts["release"] == "c2d_nonlocal_8x8_IN_pretrain_400k"
    assert facts["license"] == "CC-BY-NC 4.0"
    assert facts["reported"]["top-1"] == 74.4
    assert facts["measured"] is None


def test_report_has_a_row_a_key(capsys, file):
    code, out, _ = run(capsys, "convert", file, "--clip", "8x8", "--report")
    assert code == 0
    rows = [line for line in out.splitlines() if "outcome loaded" in line]
    assert len(rows) == 327  # official sheet: blobs of an R50 with five blocks
    assert "nonlocal_conv4_5_bn_riv" in out
    assert "res4.non_local5.norm.running_var" in out


def test_report_comes_before_the_error(capsys, model, tmp_path):
    state = model.state_dict()
    from nonlocalnet.checkpoints.formats import pyslowfast as slowfast

    names = {slowfast.RULES.to_theirs(key): value for key, value in state.items()}
    names["moon"] = torch.ones(1)
    del names["s4.pathway0_nonlocal1.conv_g.weight"]
    torch.save({"model_state": names}, tmp_path / "x.pyth")
    words = ("convert", tmp_path / "x.pyth", tmp_path / "y.safetensors", "--clip", "8x8")
    more = ("--set", "pairwise=embedded_gaussian", "--report")
    code, out, err = run(capsys, *words, *more)
    assert code == 2
    assert "moon" in out
    assert "missing" in out
    assert "2 problems" in out
    assert "res4.non_local1.g.weight is not in the file; moon is not in the network" in err
    assert not (tmp_path / "y.safetensors").exists()


def test_options_by_name(capsys, file, tmp_path):
    words = ("convert", file, tmp_path / "y.safetensors", "--clip", "32x2", "--set")
    more = ("pairwise=dot_product", "stem_padding=1", "subsample=null")
    code, out, err = run(capsys, *words, *more)
    assert code == 0
    assert "pool2_time=2" in err
    assert [name for name in ("pairwise=", "stem_padding=", "subsample=") if name in err] == []
    assert "pairwise='dot_product'" in out
    block = nl.load(tmp_path / "y.safetensors").res3.non_local1
    assert (block.pairwise, block.subsample) == ("dot_product", None)


def test_classes_that_nobody_named_are_told_and_named(capsys, file, tmp_path):
    words = ("convert", file, tmp_path / "y.safetensors", "--clip", "8x8")
    code, _, err = run(capsys, *words)
    assert code == 0
    assert (
        "does not name its classes, so they are numbers: name them with --set classes=FILE" in err
    )
    (tmp_path / "names.txt").write_text("run\njump\nsit\n")
    code, _, err = run(capsys, *words, "--set", f"classes={tmp_path / 'names.txt'}")
    assert code == 0
    assert "name its classes" not in err
    assert read_info(tmp_path / "y.safetensors").classes == ["run", "jump", "sit"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{file}"], "the file does not say all of its network; pass clip='8x8'"),
        (["{file}", "--clip", "8by8"], "clip must be FRAMESxRATE"),
        (["{file}", "--clip", "8x8", "--set", "pairwise"], "an option is NAME=VALUE"),
        (["{file}", "--clip", "8x8", "--set", "pairwize=x"], "did you mean 'pairwise'?"),
        (["{file}", "{file}", "--clip", "8x8"], "is the file to read"),
        (["{file}", "x.onnx", "--clip", "8x8"], "out must end in .safetensors, .pkl, .pyth"),
        (["none.pkl"], "no weights file at none.pkl"),
        (["{file}", "none/x.pyth", "--clip", "8x8"], "stem_padding=1; this one 0"),
    ],
)
def test_errors_are_one_sentence(capsys, file, words, says):
    code, _, err = run(capsys, "convert", *(word.format(file=file) for word in words))
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("nonlocalnet: ")
    assert says in last


def test_predict_takes_foreign_weights(capsys, file, tmp_path):
    video = tmp_path / "squares.mp4"
    write_video(video, generate_same_color(0)[0])
    words = ("predict", video, "--weights", file, "--num-clips", "1", "--json")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "pass clip=" in err
    code, out, err = run(capsys, *words, "--clip", "8x8", "--set", "stem_padding=0")
    assert code == 0
    assert set(json.loads(out)["classes"]) == {"0", "1", "2"}
    assert "pairwise='embedded_gaussian' is assumed" in err
