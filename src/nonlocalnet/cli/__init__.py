"""The command `nonlocalnet`, with one module per subcommand.

Each module has `Options`, a dataclass or a union of several, and `command`, which does the work.
Torch and other large packages are imported in `command`, so that help and errors come at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import nonlocalnet
from nonlocalnet.errors import EXTRAS, PATH_LIMIT, printable, typed_options

COMMANDS = {
    "models": "list the networks with their parameters and multiply-adds",
    "data": "check a data set, copy it with smaller videos, or pack it into tar files",
    "train": "train a network on videos, or a detector on COCO",
    "recipes": "list the training runs of the paper, with commands and scores",
    "test": "test a network on labeled videos, or a detector on COCO",
    "predict": "classify videos",
    "watch": "classify a camera, a stream or a growing file while it arrives",
    "detect": "find objects in images",
    "look": "show what a point of a video attends to",
    "explore": "show what any point of a video attends to, in the browser",
    "follow": "follow points through a video, by attention from frame to frame",
    "runs": "compare training runs in a table",
    "plot": "plot loss and validation score of training runs",
    "convert": "convert weights between this and other code bases",
    "export": "export a network as an ONNX file or a torch.export program",
    "zoo": "list and download released checkpoints",
    "completion": "print a script that completes commands and options in a shell",
}
QUIET = "--quiet"  # of every command


@typed_options()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: the words after `nonlocalnet`; None takes those of the process.

    Returns:
        The exit code: 0, or 2 after an error, which is one sentence on stderr.
    """
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
        return _fail(f"no command {name!r}; {hint}")
    try:
        from nonlocalnet.cli.options import read

        module = importlib.import_module(f"nonlocalnet.cli.{name}")
        own = hasattr(module, "read")
        words = [word for word in rest if word != QUIET]
        options = module.read(words) if own else read(name, module, words)
        if QUIET not in rest:
            return module.command(options)
        from nonlocalnet.runtime.log import without_messages

        with without_messages():
            return module.command(options)
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(package, "video")
        return _fail(
            f"{package} is needed for {name} and not installed: pip install 'nonlocalnet[{extra}]'"
        )
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(_sentence(error))


def _fail(message: str) -> int:
    """Write an error in one call, since several processes may share the terminal."""
    who = f"nonlocalnet, process {os.environ['RANK']}" if "RANK" in os.environ else "nonlocalnet"
    text = "\n".join(printable(line, PATH_LIMIT) for line in message.split("\n"))
    sys.stderr.write(f"{who}: {text}\n")
    return 2


def _sentence(error: Exception) -> str:
    """Write the system's errors without their number: "x: Permission denied"."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _usage() -> str:
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    more = (
        "Run `nonlocalnet COMMAND --help` for the options of a command. With --quiet, a command\n"
    )
    more += "prints results and errors, and neither progress nor messages."
    return "\n".join(["usage: nonlocalnet COMMAND ...", "", *lines, "", more])
