"""The video networks and the table of all networks. `VideoResNet` imports torch on first use."""

from nonlocalnet.networks.registry import create_model, list_models, register

__all__ = ["VideoResNet", "create_model", "list_models", "register"]


def __getattr__(name: str) -> object:
    if name != "VideoResNet":
        raise AttributeError(f"nonlocalnet.networks has no {name!r}")
    from nonlocalnet.networks.video_resnet import VideoResNet

    return VideoResNet
