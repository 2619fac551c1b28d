"""Code blocks of documents: which there are, how they run, and what they print."""

import ast
import doctest
import importlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import nonlocalnet as nl
from nonlocalnet.cli import main

BLOCK = re.compile(
    r"(?:^<!-- test: (?P<note>[^\n]*) -->\n+)?"  # see Block
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```[ \t]*$"
    r"(?:\n+^```text\n(?P<printed>.*?)^```[ \t]*$)?",
    re.MULTILINE | re.DOTALL,
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A code block, and what a comment before it says: <!-- test: NOTE -->.

    Attributes:
        language: python or bash; ```py, which is no cell of a notebook, is python to skip.
        code: of the page.
        line: of the page, where the code begins.
        printed: of a ```text block right after it, None without one; "..." stands for anything.
        skip: "skip REASON": why it does not run; names that it uses must exist all the same.
        slow: "slow": it runs among the slow tests only.
        changes: "800 -> 4; 32 -> 8": what the test replaces, so that it is fast.
    """

    language: str
    code: str
    line: int
    printed: str | None = None
    skip: str = ""
    slow: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)

    def fast(self) -> str:
        """Return the code with the changes."""
        code = self.code
        for old, new in self.changes.items():
            assert old in code, f"line {self.line}: no {old!r}"
            code = code.replace(old, new)
        return code


def read_blocks(text: str) -> list[Block]:
    """List the python and bash blocks of a document."""
    found = []
    for match in BLOCK.finditer(text):
        language = {"py": "python"}.get(match["language"], match["language"])
        if language not in ("python", "bash"):
            continue
        note = "skip it" if match["language"] == "py" else match["note"] or ""
        skip = note.removeprefix("skip ") if note.startswith("skip ") else ""
        parts = [] if skip or not note else note.split("; ")
        slow = "slow" in parts
        changes = dict(part.split(" -> ") for part in parts if part != "slow")
        line = text.count("\n", 0, match.start("code")) + 1
        block = language, match["code"], line, match["printed"], skip, slow, changes
        found.append(Block(*block))
    return found


def run_python(block: Block, page: Path, namespace: dict, *, fast: bool = True) -> None:
    """Run a block; a traceback shows the page's own line."""
    code = block.fast() if fast else block.code
    exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), namespace)


def run_bash(
    block: Block, page: Path, *, command: Callable[[list[str]], int] = main, fast: bool = True
) -> None:
    """Run the commands `nonlocalnet` of a block in this process; all others must be known."""
    code = block.fast() if fast else block.code
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["nonlocalnet"]:
            assert command(words[1:]) == 0, f"{page.name}:{block.line}: {line}"
        else:
            assert words[:2] in ([], ["pip", "install"]), f"{page.name}:{block.line}: {line}"


def check_printed(block: Block, page: Path, got: str) -> None:
    """Compare what a block printed with what the page shows."""
    if block.printed is not None:
        fits = doctest.OutputChecker().check_output(block.printed, got, FLAGS)
        assert fits, f"{page.name}:{block.line} printed\n{got}\ninstead of\n{block.printed}"


def check_names(block: Block, page: Path) -> None:
    """Check a block that does not run: it parses, and what it imports of ours and nl.X exist."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nonlocalnet"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{page.name}:{block.line}: {alias.name}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "nl":
            assert node.attr in nl.__all__, f"{page.name}:{block.line}: nl.{node.attr}"


def run_page(
    page: Path,
    capsys: pytest.CaptureFixture,
    *,
    given: Mapping[str, object] | None = None,
    slow: bool = False,
    commands: bool = True,
) -> None:
    """Run the blocks of a page from top to bottom in one namespace, in the current folder."""
    namespace: dict = {"__name__": "page", **(given or {})}
    for block in read_blocks(page.read_text(encoding="utf-8")):
        if block.language == "python" and (block.skip or (block.slow and not slow)):
            check_names(block, page)
        if block.skip or (block.slow and not slow) or (block.language == "bash" and not commands):
            continue
        capsys.readouterr()
        if block.language == "python":
            run_python(block, page, namespace)
        else:
            run_bash(block, page)
        check_printed(block, page, capsys.readouterr().out)
