"""The README's Python blocks run, top to bottom, in one namespace, as a reader would type them."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
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


def test_readme_runs(tmp_path, monkeypatch):
    blocks = python_blocks(README.read_text(encoding="utf-8"))
    if not blocks:
        pytest.skip("README.md has no Python block to run")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for line, code in blocks:
        # blank lines before it, so that a traceback shows the README's own line
        exec(compile("\n" * (line - 1) + code, str(README), "exec"), namespace)
