"""The networks and videos of the explorer, and a cache of scenes."""

from __future__ import annotations

import secrets
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from nonlocalnet.data.find_videos import find_videos
from nonlocalnet.data.suffixes import SUFFIXES
from nonlocalnet.data.video.reader import VideoError, probe
from nonlocalnet.inspection.clip import decode_clip, look_at_clip
from nonlocalnet.inspection.scene import Scene
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.isolated import Failure, IsolatedCall
from nonlocalnet.runtime.log import status

T = TypeVar("T")

NAME = 120  # characters of a file's name that are shown
LONGEST = 4  # times the short side: longer strips take too much memory
KEPT = 6  # scenes in the cache
UPLOADS = 20  # the newest are kept
DECODING = 30.0  # seconds for one clip
MEMORY = 2 << 30  # bytes for decoding, in addition to what the process has when it starts


class NotFound(KeyError):
    """There is no such video or network; the message is for the user."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Video:
    """A video of the folder, or an upload."""

    key: str
    name: str
    path: Path


class Library:
    """Hold networks and videos, and build scenes, one at a time.

    Videos are decoded in a separate process with limits of time and memory: a hostile file ends
    that process, and another one is started for the next file.

    Args:
        networks: from `nl.load`, by the name to show.
        videos: files to choose from.
        store: an empty folder for uploads.
    """

    def __init__(
        self, networks: Mapping[str, VideoResNet], videos: Sequence[Path], store: Path
    ) -> None:
        self.networks, self.store = dict(networks), store
        self._videos = {
            f"v{i}": Video(f"v{i}", shown(path.name), path) for i, path in enumerate(videos)
        }
        self._uploads: OrderedDict[str, Video] = OrderedDict()
        self._scenes: OrderedDict[tuple[str, str, float], Scene] = OrderedDict()
        self._looking, self._changing = threading.Lock(), threading.Lock()
        self._decode = IsolatedCall(
            time_limit=DECODING, memory_limit=MEMORY, modules=[decode_clip.__module__]
        )
        # starting takes seconds: begin now, so that the first video does not wait
        threading.Thread(target=self._decode, args=(int,), daemon=True).start()

    def videos(self) -> list[Video]:
        """List the videos, uploads last."""
        with self._changing:
            return [*self._videos.values(), *self._uploads.values()]

    def new_file(self) -> Path:
        """Return the path of a new file in the store, for an upload."""
        return self.store / secrets.token_hex(16)

    def add(self, path: Path, name: str) -> Video:
        """Add an uploaded file; if there are more than 20, the oldest is deleted.

        Args:
            path: from `new_file`.
            name: of the file, as the user sees it.

        Raises:
            VideoError: it cannot be read, or is a long strip; the file is deleted.
        """
        name = shown(name)
        try:
            about = self._isolated(probe, path, name)
            if max(about.width, about.height) > LONGEST * min(about.width, about.height):
                raise VideoError(
                    name,
                    f"frames of {about.width}x{about.height} are too long a strip: the longer side "
                    f"may be at most {LONGEST} times the shorter",
                )
        except VideoError:
            path.unlink(missing_ok=True)
            raise
        video = Video(path.name, name, path)
        with self._changing:
            self._uploads[video.key] = video
            while len(self._uploads) > UPLOADS:
                _, old = self._uploads.popitem(last=False)
                old.path.unlink(missing_ok=True)
        return video

    def look(self, video: str, network: str, moment: float) -> Scene:
        """Return the scene of a clip, from the cache if it is there.

        Args:
            video: key of the video.
            network: name of the network.
            moment: position of the clip in the video, from 0 to 1.

        Raises:
            NotFound: there is no such video or network.
            VideoError: the video cannot be read.
            ValueError: the moment is not from 0 to 1.
        """
        with self._changing:
            found = self._videos.get(video) or self._uploads.get(video)
        if found is None:
            raise NotFound("this video is no longer available: choose or drop it again")
        if network not in self.networks:
            raise NotFound("there is no such network: choose another")
        if not 0 <= moment <= 1:
            raise ValueError(f"moment must be from 0 (first clip) to 1 (last); got {moment:g}")
        key = (video, network, moment)
        with self._looking:  # requests for the same scene wait for one computation
            if key not in self._scenes:
                model = self.networks[network]
                clip, view = self._isolated(
                    partial(decode_clip, info=model.info, moment=moment), found.path, found.name
                )
                scene = look_at_clip(model, clip, view, title=found.name)
                _ = scene.summaries  # computed here, while the lock is held
                self._scenes[key] = scene
            self._scenes.move_to_end(key)
            while len(self._scenes) > KEPT:
                self._scenes.popitem(last=False)
            return self._scenes[key]

    def close(self) -> None:
        """End the decoding process, even if it is busy."""
        self._decode.close()

    def _isolated(self, function: Callable[..., T], path: Path, name: str) -> T:
        result = self._decode(function, path)
        if isinstance(result, Failure):
            # the sender does not know the file's name in the store
            raise VideoError(name, result.reason.replace(f"{path}: ", "").replace(str(path), name))
        return result


def shown(name: str) -> str:
    """Clean a file's name from outside for display; it is never used as a path.

    >>> shown("C:\\\\films\\\\one\\x00\\n.mp4")
    'one.mp4'
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    return clean[:NAME] or "video"


def videos_of(source: Path | None) -> list[Path]:
    """List the videos of a folder and its subfolders, and print what is left out.

    Args:
        source: the folder, or a single video; None for no videos.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder has no videos.
    """
    if source is None:
        return []
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"no video or folder at {source}")
    found = find_videos(source)
    if not found.videos:
        known = f"{', '.join(SUFFIXES[:6])} or folders of 00001.jpg"
        raise ValueError("; ".join([f"{source} has no videos, such as {known}", *found.notes()]))
    for note in found.notes():
        status.print(note, soft_wrap=True)
    return found.videos
