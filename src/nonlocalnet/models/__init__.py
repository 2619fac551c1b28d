"""The networks, their table and their weights."""

from nonlocalnet.models.registry import create_model, list_models, register
from nonlocalnet.models.video_resnet import VideoResNet

__all__ = ["VideoResNet", "create_model", "list_models", "register"]
