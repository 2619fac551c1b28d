"""What a message advises is there to be typed."""

import ast
import re
from pathlib import Path

import pytest

import nonlocalnet

HOUSE = Path(nonlocalnet.__file__).parent
SHARED = [  # by commands with different options, and by Python
    path for path in HOUSE.rglob("*.py") if path.relative_to(HOUSE).parts[0] != "cli"
]
# words after the command that has them: `nonlocalnet zoo get NAME --mirror PLACE`
WHOLE = re.compile(r"`(nonlocalnet|torchrun) [^`]*`|torchrun --nproc.*")


def raised(tree):
    """Texts of what is raised and printed."""
    for node in ast.walk(tree):
        calls = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(calls, ast.Call) and (
            isinstance(node, ast.Raise) or getattr(calls.func, "attr", "") == "print"
        ):
            for part in ast.walk(calls):
                if isinstance(part, ast.JoinedStr):
                    yield "".join(
                        str(value.value) if isinstance(value, ast.Constant) else "{}"
                        for value in part.values
                    )
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_messages_of_shared_functions_name_no_options_of_a_command(path):
    for text in raised(ast.parse(path.read_text(encoding="utf-8"))):
        rest = WHOLE.sub("", text)
        assert not re.search(r"(^|[\s(])--[a-z]", rest), text
