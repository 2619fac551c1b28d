"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"


def modules_with_examples() -> list[str]:
    found = []
    for path in sorted((SOURCE / "nonlocalnet").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def test_there_are_examples():
    assert {"nonlocalnet.ops.dispatch", "nonlocalnet.networks.registry"} <= set(
        modules_with_examples()
    )


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{name} needs an extra: {error}")
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0, capsys.readouterr().out
