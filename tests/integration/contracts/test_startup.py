"""Help and errors of use come without torch; videos need neither torchvision nor torch's compiler.

Imported modules are counted, in fresh interpreters, not seconds.
"""

import json
import subprocess
import sys

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import COMMANDS
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.networks import create_model

HEAVY = ["torch", "torchvision", "av", "numpy", "matplotlib", "PIL", "starlette", "uvicorn"]
ERRORS = {  # words -> what stderr says
    # a misspelled option, or a command's or a choice's name
    "trian": "did you mean train?",
    "data check d --imags d": "did you mean --images?",
    "train --data d --out o --itrations 3": "did you mean --iterations?",
    "explore d --weigths w.pth": "did you mean --weights?",
    "recipes i3d_r50_nl6_32x2": "did you mean 'i3d_r50_nl5_32x2'?",
    "zoo get i3d_nonlocal_32x2_IN_pretrain_40k": "did you mean 'i3d_nonlocal_32x2_IN",
    # an option or a value that is missing
    "train --data d": "--out",
    "train --data d --out": "--out",
    "predict v.mp4": "--weights",
    "predict --weights w.pth": "name at least one video",
    # a missing file
    "predict v.mp4 --weights none": "no weights file at none",
    "predict v.mp4 --weights d": "it is a run, its weights are d/best.safetensors",
    "predict none.mp4 --weights w.pth": "none.mp4: no such file",
    "predict none.mp4 gone.mp4 --weights w.pth": "none.mp4: no such file",
    "watch none.ts --weights w.pth": "none.ts: no such file",
    "watch v.mp4 --weights none": "no weights file at none",
    "watch http://localhost/a --weights none": "no weights file at none",
    "detect none.jpg --weights w.pth": "none.jpg: no such file",
    "detect v.mp4 --weights none": "no weights file at none",
    "look none.mp4 --weights w.pth": "at none.mp4",
    "look v.mp4 --weights none": "no weights file at none",
    "follow none.mp4 --weights w.pth --at 0,1,2": "at none.mp4",
    "follow v.mp4 --weights none --at 0,1,2": "no weights file at none",
    "explore none --weights w.pth": "at none",
    "explore d --weights none": "no weights file at none",
    "test --data none --weights w.pth": "at none",
    "test --data d --weights none": "no weights file at none",
    "convert none": "no weights file at none",
    "data check none": "at none",
    "data check d --classes none": "at none",
    "data check d --images none": "no folder none",
    "data resize none o": "at none",
    "data pack none o": "at none",
    "runs none": "no folder none",
    "plot none": "no folder none",
    "train --data none --out o": "at none",
    "train --data d --val none --out o": "at none",
    "train --data d --look none --out o": "at none",
    "train --data d --init none.pth --out o": "no weights file at none.pth",
    "train --resume --out o": "there is no run in o",
    # a wrong value
    "predict v.mp4 --weights w.pth --top 0": "--top must be at least 1",
    "predict v.mp4 --weights w.pth --top many": "--top",
    "predict v.mp4 --weights w.pth --num-crops 2": "--num-crops",
    "predict v.mp4 --weights w.pth --out p.doc": "one of '.csv', '.jsonl', '.parquet'",
    "predict v.mp4 --weights w.pth --part 3": "--part must be 1/N to N/N",
    "predict x*y --weights w.pth": "no video or folder matches x*y",
    "predict v.mp4 --weights w.pth --clip 8by8": "clip must be FRAMESxRATE",
    "predict v.mp4 --weights w.pth --set pairwise": "NAME=VALUE",
    "watch ftp://a:b@c/d --weights w.pth": "got 'ftp'",
    "watch v.mp4 --weights w.pth --every 0": "--every must be above 0",
    "watch v.mp4 --weights w.pth --retrys 2": "did you mean --retries?",
    "detect v.mp4 --weights w.pth --score 1": "--score must be at least 0 and below 1",
    "look v.mp4 --weights w.pth --at 3": "--at is T,X,Y",
    "look v.mp4 --weights w.pth --moment 2": "--moment must be from 0",
    "look v.mp4 --weights w.pth --style dots": "--style",
    "look v.mp4 --weights w.pth --out a.doc": "--out must end in",
    "follow v.mp4 --weights w.pth": "--at",
    "follow v.mp4 --weights w.pth --at 3": "--at is T,X,Y",
    "follow v.mp4 --weights w.pth --at 0,1,2 --out a.doc": "one of '.mp4'",
    "explore d --weights w.pth --port 70000": "--port must be at least 0 and at most 65535",
    "test --data d --weights w.pth --precision fp8": "--precision",
    "test --data d --weights w.pth --out a.doc": "--out must be a folder",
    "convert w.pth a.doc": "out must end in",
    "models --crop 0": "--crop must be at least 1",
    "models --clip x": "clip must be FRAMESxRATE",
    "data check d --workers 0": "--workers must be at least 1",
    "data pack d o --shard-size 1XB": "--shard-size is a number and",
    "data resize d o --crf 52": "--crf must be at least 0 and at most 51",
    "plot d --x hours": "--x",
    "zoo nothing": "no release matches",
    "train --data d --out o --lr nan": "--lr must be above 0",
    "train --data d --out o --momentum 1": "--momentum must be at least 0 and below 1",
    "train --data d --out o --short-side 0 9": "--short-side must be at least 1",
    "train --data d --out o --pairwise dot": "--pairwise",
    "train --data d --out o --clip x": "clip must be FRAMESxRATE",
    "train --data d --out o --model c3d": "model must be one of",
    "train --data d --out o --model c2d_tiny --jitter 0.1": "learns from videos: --jitter",
    "train --data d --out o --smoke-test": "--smoke-test needs a recipe",
    "train i3d_r50_nl5_128x1 --data d --out o": "starts from the network of i3d_r50_nl5_32x2",
}
SCRIPT = """
import contextlib, io, json, sys
from nonlocalnet.cli import main

found = {}
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = exec(words) if words.startswith("import ") else main(words.split())
        except SystemExit as end:
            code = end.code
    found[words] = code, out.getvalue(), err.getvalue(), sorted(sys.modules)
print(json.dumps(found))
"""


def run(words, cwd):
    """Run several commands in one fresh interpreter: exit code, stdout, stderr and modules."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(words)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_help_and_errors_of_use_need_no_torch(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("v.mp4", "w.pth", "d/best.safetensors"):
        (tmp_path / name).touch()
    helps = [f"{name} --help" for name in (*COMMANDS, "data check", "data resize")]
    lists = ["models", "zoo", "recipes", "train i3d_r50_nl5_32x2 --print-config"]
    found = run([*helps, *lists, *ERRORS], tmp_path)
    for words, (code, out, err, modules) in found.items():
        assert not set(HEAVY) & set(modules), words  # the first that imports one
        if words in ERRORS:
            assert code == 2, words
            assert ERRORS[words] in " ".join(err.split()), words
        else:
            assert code == 0, words
            assert out, words


def test_an_error_with_a_resumed_run_needs_no_torch(tmp_path):
    setup = ("train c2d_r50_32x2 --data d --out o --print-config",)
    config = run(setup, tmp_path)[setup[0]][1]
    (tmp_path / "o" / "checkpoints").mkdir(parents=True)
    (tmp_path / "o" / "checkpoints" / "1.pt").touch()
    (tmp_path / "o" / "config.json").write_text(config)
    ((code, _, err, modules),) = run(["train --resume --out o --lr x"], tmp_path).values()
    assert code == 2
    assert "--lr" in err
    assert "torch" not in modules


def test_videos_need_neither_torchvision_nor_the_compiler(tmp_path):
    write_same_color(tmp_path / "v", 2, seed=0)
    model = create_model("c2d_tiny_nl2", num_classes=2, clip="4x2", crop=32)
    info = WeightsInfo(config=model.config, classes=["different", "same"], short_side=32)
    save_weights(model, tmp_path / "w.safetensors", info)
    end = "--weights w.safetensors --num-clips 1 --device cpu"
    predict, test = f"predict v/same/00001.mp4 {end}", f"test --data v --workers 0 {end}"
    train = "import nonlocalnet.training.trainer"  # optimizers of torch import its compiler
    found = run([predict, test, train], tmp_path)
    assert "same" in found[predict][1]
    assert "top1" in found[test][1]
    modules = found[train][3]  # after all three
    assert "torch" in modules
    assert not {"torchvision", "torch._dynamo", "torch._inductor", "sympy"} & set(modules)
