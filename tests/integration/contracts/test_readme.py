"""The README's Python blocks run, top to bottom, in one namespace, as a reader would type them."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
SKIP = re.compile(r"<!--\s*test:\s*skip\b.*?-->\s*\Z", re.DOTALL)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(line, code) of each block to run; one right after <!-- test: skip why --> is not."""
    return [
        (text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in BLOCK.finditer(text)
        if match[1] == "python" and not SKIP.search(text[: match.start()])
    ]


def test_blocks_are_found_and_skipped_as_told():
    text = (
        "a\n```python\nx = 1\n```\n\n```bash\nrm x\n```\n<!-- test: skip needs a GPU -->\n\n"
        "```python\n1 / 0\n```\n\n```python\nassert x == 1\n```\n"
    )
    assert python_blocks(text) == [(3, "x = 1\n"), (16, "assert x == 1\n")]


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory):
    """A folder where `make demo` has run, in little: the README goes on from there."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["demo.py", "--smoke", "--out", "demo"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "examples" / "demo.py"), run_name="__main__")
    assert ended.value.code == 0
    return folder


def test_the_demo_leaves_what_it_says(after_the_demo):
    demo = after_the_demo / "demo"
    results = json.loads((demo / "results.json").read_text())
    assert set(results["test_accuracy"]) == {"c2d_tiny", "c2d_tiny_nl2"}
    page = (demo / "report.html").read_text()
    assert page.count('<img alt="') == 2
    assert results["seeds"] == [0]
    local, blocks = (of["mean"] for of in results["test_accuracy"].values())  # of this run
    assert f"right on {blocks:.1%} of the test videos, the one without on {local:.1%}" in page
    assert "of its weight to the place of the first square, where an even share is" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched
    assert (demo / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_readme_runs(after_the_demo, monkeypatch):
    blocks = python_blocks(README.read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    monkeypatch.chdir(after_the_demo)
    namespace = {"__name__": "readme"}
    for line, code in blocks:
        # blank lines before it, so that a traceback shows the README's own line
        exec(compile("\n" * (line - 1) + code, str(README), "exec"), namespace)
