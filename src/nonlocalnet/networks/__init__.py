"""The video networks and the table of all networks."""

from nonlocalnet.networks.registry import create_model, list_models, register
from nonlocalnet.networks.video_resnet import VideoResNet

__all__ = ["VideoResNet", "create_model", "list_models", "register"]
