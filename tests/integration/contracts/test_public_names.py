import inspect
import subprocess
import sys

import pytest

import nonlocalnet as nl

NAMES = [
    "NonLocalBlock",
    "Stream",
    "accelerate",
    "add_non_local",
    "affinity",
    "create_model",
    "detect",
    "explain",
    "export",
    "export_weights",
    "list_models",
    "load",
    "load_weights",
    "look",
    "non_local",
    "predict",
    "propagate",
    "read_clip",
    "remove_non_local",
    "restore",
    "share_frames",
]


def run(code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def test_public_names_are_pinned():
    assert sorted(nl.__all__) == NAMES
    assert set(NAMES) <= set(dir(nl))
    assert nl.__version__


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_documented_with_an_example_or_what_it_gives(name):
    thing = getattr(nl, name)
    assert callable(thing)
    text = inspect.getdoc(thing)
    assert text
    assert ">>>" in text or "Raises:" in text or "Returns:" in text


def test_unknown_name_is_named_with_what_there_is():
    with pytest.raises(AttributeError, match=r"no 'nonlocal_'; it has .*non_local"):
        _ = nl.nonlocal_


def test_import_loads_nothing_but_the_package():
    code = "import sys; print(*sys.modules); import nonlocalnet; print(*sys.modules)"
    bare, after = (set(line.split()) for line in run(code).stdout.splitlines())
    assert "nonlocalnet" in after
    extra = {name.split(".")[0] for name in after - bare} - sys.stdlib_module_names
    assert extra == {"nonlocalnet"}


def test_operation_block_and_networks_load_torch_alone():
    code = [
        "import sys, torch, torch.utils.data",
        "print(*sys.modules)",
        "import nonlocalnet as nl",
        "nl.non_local(*[torch.ones(1, 2, 2)] * 3)",
        "nl.NonLocalBlock(4)(torch.ones(1, 4, 2, 2, 2))",
        "network = nl.create_model('c2d_tiny')",
        "nl.add_non_local(network, 'res2.block0', verbose=False)",
        "nl.remove_non_local(network)",
        "nl.list_models()",
        "print(*sys.modules)",
    ]
    torch, used = map(str.split, run("\n".join(code)).stdout.splitlines())
    assert "torch" in used
    packages = {name.split(".")[0] for name in used} - {name.split(".")[0] for name in torch}
    assert packages - sys.stdlib_module_names == {"nonlocalnet"}
    heavy = {"torchvision", "av", "rich", "tyro", "matplotlib", "safetensors"}
    assert not heavy & packages


def test_a_missing_extra_is_one_sentence():
    code = """
import sys, traceback
import nonlocalnet as nl
for name, package in (("predict", "av"), ("detect", "faster_coco_eval")):
    sys.modules[package] = None
    try:
        getattr(nl, name)
    except ImportError:
        traceback.print_exc()
"""
    said = run(code).stderr
    assert "nl.predict needs av: pip install 'nonlocalnet[video]'" in said
    assert "nl.detect needs faster_coco_eval: pip install 'nonlocalnet[coco]'" in said
    assert "During handling" not in said
