"""The command `nonlocalnet`: one thin module a subcommand, loaded when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, get_type_hints

import nonlocalnet
from nonlocalnet.errors import EXTRAS, PATH_LIMIT, printable, typed_options

COMMANDS = {
    "models": "list the networks, with parameters and multiply-adds",
    "data": "check a data set of videos or of COCO's images, or make a smaller copy",
    "train": "train a network on video files, or a detector on COCO",
    "recipes": "list the paper's training runs, with what to type and to expect",
    "test": "test a network on many clips and crops of each video, or on COCO",
    "predict": "classify videos",
    "detect": "find objects in images",
    "look": "draw what a point of a video attends to",
    "explore": "see what any point of a video attends to, in the browser",
    "runs": "compare training runs in a table",
    "plot": "draw loss and validation score of training runs",
    "convert": "turn weights of other code bases into ours, and back",
    "zoo": "list released checkpoints, and get them",
}


@typed_options()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors of use and of input are one sentence on stderr, exit code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name, rest = args[0], args[1:]
    if name == "--version":
        print(f"nonlocalnet {nonlocalnet.__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"nonlocalnet: no command {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        import tyro

        from nonlocalnet.cli.options import check_options

        module = importlib.import_module(f"nonlocalnet.cli.{name}")
        check_options(name, options_of(module), rest)
        if hasattr(module, "run"):  # a command that must see its words before tyro does
            return module.run(rest)
        return tyro.cli(
            module.command, args=rest, prog=f"nonlocalnet {name}", description=module.__doc__
        )
    except KeyboardInterrupt:
        print("nonlocalnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        print(
            f"nonlocalnet: {package} is needed for {name} and not installed: "
            f"pip install 'nonlocalnet[{EXTRAS.get(package, 'video')}]'",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError, RuntimeError) as error:
        who = (
            f"nonlocalnet, process {os.environ['RANK']}" if "RANK" in os.environ else "nonlocalnet"
        )
        sys.stderr.write(f"{who}: {_sentence(error)}\n")  # at once: processes share the terminal
        return 2


def options_of(module: ModuleType) -> Any:
    """Give the type of a command's options."""
    if hasattr(module, "run"):
        return module.Options
    return next(iter(get_type_hints(module.command, include_extras=True).values()))


def _sentence(error: Exception) -> str:
    """Put the system's errors, "[Errno 13] Permission denied: 'x'", into words fit to print."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return "\n".join(printable(line, PATH_LIMIT) for line in text.split("\n"))


def _usage() -> str:
    lines = [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: nonlocalnet COMMAND ...", "", *lines, "", "nonlocalnet COMMAND --help says more."]
    )
