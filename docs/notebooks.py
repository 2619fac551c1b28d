"""Make notebooks of the tutorials, and run them in their order in one folder.

    python docs/notebooks.py docs/_build/run

Commands run by the `nonlocalnet` that is installed beside this Python.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jupytext

TUTORIALS = Path(__file__).parent / "tutorials"
ORDER = ("block", "videos", "weights", "attention", "accelerate", "long-videos", "cluster")
HEADER = """---
jupyter:
  jupytext:
    main_language: python
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---

"""


def make_notebook(page: Path) -> Any:
    """Turn a page into a notebook: Python and commands are cells, notes to the tests are gone."""
    text = re.sub(r"^<!-- test: .* -->\n", "", page.read_text("utf-8"), flags=re.MULTILINE)
    return jupytext.reads(HEADER + text, "md")


def main(out: Path) -> int:
    from nbclient import NotebookClient

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    out.mkdir(parents=True, exist_ok=True)
    for name in ORDER:
        started = time.monotonic()
        notebook = make_notebook(TUTORIALS / f"{name}.md")
        resources = {"metadata": {"path": str(out)}}
        NotebookClient(notebook, timeout=3600, resources=resources).execute()
        jupytext.write(notebook, out / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
