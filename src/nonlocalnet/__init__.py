"""Non-local neural networks (Wang et al., CVPR 2018) in PyTorch."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Loaded on first use, so that `import nonlocalnet` costs no more than `import torch`.
_HOME = {
    "NonLocalBlock": "blocks",
    "add_non_local": "blocks.insertion",
    "affinity": "ops",
    "create_model": "networks",
    "detect": "detection.detect",
    "explain": "ops",
    "export_weights": "checkpoints.load",
    "list_models": "networks",
    "load": "checkpoints.load",
    "load_weights": "checkpoints.load",
    "look": "inspection.look",
    "predict": "evaluation.multiview",
    "non_local": "ops",
    "remove_non_local": "blocks.insertion",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"nonlocalnet has no {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(f"nonlocalnet.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        from nonlocalnet.errors import EXTRAS

        package = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(package, "video")
        raise ModuleNotFoundError(
            f"nl.{name} needs {package}: pip install 'nonlocalnet[{extra}]'", name=error.name
        ) from None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
