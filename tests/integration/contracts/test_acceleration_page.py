"""The Python blocks of docs/acceleration.md run; those that need other packages in tests/peers."""

import re
import sys
import types
from pathlib import Path

import pytest

import stand_ins

PAGE = Path(__file__).parents[3] / "docs" / "acceleration.md"
BLOCK = re.compile(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def test_there_are_three_examples():
    assert [needs for needs, _ in BLOCKS] == ["", "diffusers", "mmcv"]


@pytest.mark.parametrize(("needs", "code"), BLOCKS)
def test_example(needs, code, monkeypatch, capsys):
    if needs:
        pytest.importorskip(needs)

    def block(channels: int) -> stand_ins.TextbookBlock:
        return stand_ins.TextbookBlock(channels, 2, "dot_product", True, True)

    project = types.ModuleType("lib.non_local_dot_product")
    project.NONLocalBlock2D = block
    monkeypatch.setitem(sys.modules, "lib", types.ModuleType("lib"))
    monkeypatch.setitem(sys.modules, "lib.non_local_dot_product", project)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "before, now" in capsys.readouterr().out
