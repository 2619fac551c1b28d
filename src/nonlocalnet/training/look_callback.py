"""See attention form: the same point of the same clip, drawn at every validation."""

from __future__ import annotations

from pathlib import Path

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.inspection.figure import figure3
from nonlocalnet.inspection.look import look_at_clip, place_point, read_clip
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.atomic import write_atomically


class Watch:
    """Draw what one point of a video attends to in a network's last non-local block.

    Args:
        video: the file; its middle clip is read once, here.
        at: (frame, x, y) as in `nl.look`; None is the middle of the clip.
        info: of the network in training: clip, size and normalization of its input.
        folder: where the pictures go, 00001000.png with the iteration as the name.

    Raises:
        VideoError: the video cannot be read.
        ValueError: the point lies outside.
    """

    def __init__(
        self, video: Path, at: tuple[float, float, float] | None, info: WeightsInfo, folder: Path
    ) -> None:
        self.folder, self.title, self.info = folder, video.name, info
        self.clip, self.view = read_clip(video, info)
        if at is None:
            frames, height, width = (n // 2 for n in self.clip.shape[1:])
            left, top = self.view.corner[1], self.view.corner[0]
            at = frames, (width + left) / self.view.scale[1], (height + top) / self.view.scale[0]
        place_point(at, self.clip.shape[1:], self.view)
        self.at = at

    def draw(self, network: VideoResNet, iteration: int) -> None:
        """Write the picture of a network as it is now."""
        network.info = self.info
        found = look_at_clip(network, self.clip, self.view, at=self.at)
        title = f"{self.title} · {found.block.name} · iteration {iteration}"
        figure = figure3(found.frames, found.attention, title=title, times=found.times)
        path = self.folder / f"{iteration:08d}.png"
        write_atomically(path, lambda file: figure.savefig(file, format="png"))
