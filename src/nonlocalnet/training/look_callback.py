"""Draw the attention of one point of one clip at every validation, to see it develop."""

from __future__ import annotations

from pathlib import Path

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.errors import option
from nonlocalnet.inspection.clip import decode_clip, look_at_clip
from nonlocalnet.inspection.figure import draw_figure
from nonlocalnet.inspection.scene import place_point
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.atomic import write_atomically


class LookCallback:
    """Draw what one point of a video attends to in a network's last non-local block.

    Args:
        video: the file; its middle clip is read once, here.
        at: (frame, x, y) as in `nl.look`; None is the middle of the clip.
        network: the network in training.
        info: clip, size and normalization of its input.
        folder: where the pictures go; 00001000.png is that of iteration 1000.

    Raises:
        VideoError: the video cannot be read.
        ValueError: the point lies outside, or the network has no non-local block.
    """

    def __init__(
        self,
        video: Path,
        at: tuple[float, float, float] | None,
        network: VideoResNet,
        info: WeightsInfo,
        folder: Path,
    ) -> None:
        if not any(isinstance(module, NonLocalBlock) for module in network.modules()):
            name = info.config["name"]
            raise ValueError(f"{name} has no non-local block for {option('look')} to draw")
        self.folder, self.title, self.info = folder, video.name, info
        self.clip, self.view = decode_clip(video, info)
        if at is None:
            frames, height, width = (n // 2 for n in self.clip.shape[1:])
            left, top = self.view.corner[1], self.view.corner[0]
            at = frames, (width + left) / self.view.scale[1], (height + top) / self.view.scale[0]
        place_point(at, self.clip.shape[1:], self.view)
        self.at = at

    def __call__(self, network: VideoResNet, iteration: int) -> None:
        """Draw the attention of a network as it is now."""
        network.info = self.info
        found = look_at_clip(network, self.clip, self.view, at=self.at)
        title = f"{self.title} · {found.block.name} · iteration {iteration}"
        figure = draw_figure(found.frames, found.attention, title=title, times=found.times)
        path = self.folder / f"{iteration:08d}.png"
        write_atomically(path, lambda file: figure.savefig(file, format="png"))
