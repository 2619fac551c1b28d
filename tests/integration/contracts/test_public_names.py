import inspect
import subprocess
import sys

import pytest

import nonlocalnet as nl

NAMES = [
    "NonLocalBlock",
    "add_non_local",
    "affinity",
    "create_model",
    "detect",
    "explain",
    "export_weights",
    "list_models",
    "load",
    "load_weights",
    "look",
    "non_local",
    "predict",
    "remove_non_local",
]


def modules_after(*statements: str) -> set[str]:
    """What a fresh interpreter has loaded after these statements."""
    code = "\n".join([*statements, "import sys", "print(*sys.modules, sep='\\n')"])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


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
    bare, after = modules_after(), modules_after("import nonlocalnet")
    assert "nonlocalnet" in after
    extra = {name.split(".")[0] for name in after - bare} - sys.stdlib_module_names
    assert extra == {"nonlocalnet"}


def test_operation_block_and_networks_load_torch_alone():
    torch = modules_after("import torch, torch.utils.data")
    used = modules_after(
        "import nonlocalnet as nl, torch",
        "nl.non_local(*[torch.ones(1, 2, 2)] * 3)",
        "nl.NonLocalBlock(4)(torch.ones(1, 4, 2, 2, 2))",
        "network = nl.create_model('c2d_tiny')",
        "nl.add_non_local(network, 'res2.block0', verbose=False)",
        "nl.remove_non_local(network)",
        "nl.list_models()",
    )
    assert "torch" in used
    packages = {name.split(".")[0] for name in used} - {name.split(".")[0] for name in torch}
    assert packages - sys.stdlib_module_names == {"nonlocalnet"}
    heavy = {"torchvision", "av", "rich", "tyro", "matplotlib", "safetensors"}
    assert not heavy & packages


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("predict", "av", "video"), ("detect", "faster_coco_eval", "coco")],
)
def test_a_missing_extra_is_one_sentence(name, package, extra):
    code = f"import sys; sys.modules['{package}'] = None\nimport nonlocalnet as nl; nl.{name}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"nl.{name} needs {package}: pip install 'nonlocalnet[{extra}]'" in done.stderr
    assert "During handling" not in done.stderr
