"""For `torch.hub.load("OWNER/nonlocalnet", NAME)`: each network by name, files by `load`."""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

import nonlocalnet as _nl

dependencies = ["torch", "numpy", "safetensors", "yaml"]

load = _nl.load
NonLocalBlock = _nl.NonLocalBlock
add_non_local = _nl.add_non_local
accelerate = _nl.accelerate


def _entry(name: str):
    create = functools.partial(_nl.create_model, name)
    create.__doc__ = f"Create {name} with random weights; options as in `nl.create_model`."
    return create


globals().update({name: _entry(name) for name in _nl.list_models() if name.isidentifier()})
