"""Non-local neural networks (Wang et al., CVPR 2018) in PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nonlocalnet.acceleration.explanation import affinity as affinity
    from nonlocalnet.acceleration.explanation import explain as explain
    from nonlocalnet.acceleration.network import accelerate as accelerate
    from nonlocalnet.acceleration.network import restore as restore
    from nonlocalnet.blocks import NonLocalBlock as NonLocalBlock
    from nonlocalnet.blocks.insertion import add_non_local as add_non_local
    from nonlocalnet.blocks.insertion import remove_non_local as remove_non_local
    from nonlocalnet.blocks.sharing import share_frames as share_frames
    from nonlocalnet.blocks.streaming import Stream as Stream
    from nonlocalnet.checkpoints.load import load as load
    from nonlocalnet.checkpoints.load import load_weights as load_weights
    from nonlocalnet.checkpoints.save import export_weights as export_weights
    from nonlocalnet.deployment.export import export as export
    from nonlocalnet.detection.detect import detect as detect
    from nonlocalnet.evaluation.prediction import predict as predict
    from nonlocalnet.inspection.clip import read_clip as read_clip
    from nonlocalnet.inspection.look import look as look
    from nonlocalnet.inspection.propagation import propagate as propagate
    from nonlocalnet.networks import create_model as create_model
    from nonlocalnet.networks import list_models as list_models
    from nonlocalnet.ops import non_local as non_local

__version__ = "0.1.0"

# The module of each public name, imported on first use: `import nonlocalnet` loads nothing.
# Type checkers read the imports above.
_MODULES = {
    "NonLocalBlock": "blocks",
    "Stream": "blocks.streaming",
    "accelerate": "acceleration.network",
    "add_non_local": "blocks.insertion",
    "affinity": "acceleration.explanation",
    "create_model": "networks",
    "detect": "detection.detect",
    "explain": "acceleration.explanation",
    "export": "deployment.export",
    "export_weights": "checkpoints.save",
    "list_models": "networks",
    "load": "checkpoints.load",
    "load_weights": "checkpoints.load",
    "look": "inspection.look",
    "non_local": "ops",
    "predict": "evaluation.prediction",
    "propagate": "inspection.propagation",
    "read_clip": "inspection.clip",
    "remove_non_local": "blocks.insertion",
    "restore": "acceleration.network",
    "share_frames": "blocks.sharing",
}
__all__ = sorted(_MODULES)

if not TYPE_CHECKING:  # a checker takes names that are not imported above for errors

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"nonlocalnet has no {name!r}; it has {', '.join(__all__)}")
        try:
            return getattr(importlib.import_module(f"nonlocalnet.{_MODULES[name]}"), name)
        except ModuleNotFoundError as error:
            from nonlocalnet.errors import EXTRAS

            package = (error.name or "").partition(".")[0]
            extra = EXTRAS.get(package, "video")
            raise ModuleNotFoundError(
                f"nl.{name} needs {package}: pip install 'nonlocalnet[{extra}]'", name=error.name
            ) from None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
