"""What the explorer knows: networks, videos, and the clips that were looked at."""

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

from nonlocalnet.data.find_videos import walk
from nonlocalnet.data.suffixes import SUFFIXES
from nonlocalnet.data.video.reader import VideoError, probe
from nonlocalnet.inspection.look import Look, look_at_clip, read_clip
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.isolated import Failure, IsolatedCall
from nonlocalnet.runtime.log import status

T = TypeVar("T")

NAME = 120  # characters of a file's name that are shown
LONGEST = 4  # times the short side: a longer strip takes memory without end when it is looked at
KEPT = 6  # looks in memory
UPLOADS = 20  # videos kept, the newest
DECODING = 30.0  # seconds for one clip
MEMORY = 2 << 30  # bytes for decoding, beyond what the process has at its start


class Unknown(KeyError):
    """A video or network that is not there, in words for whoever asked."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Video:
    """A video of the folder, or an uploaded one."""

    key: str
    name: str
    path: Path


class Library:
    """Hold networks and videos, and look at clips, one at a time.

    Videos are decoded in a process of its own, with limits of time and memory: a hostile file ends
    that process, and the next one gets another.

    Args:
        networks: by the name that is shown; from `nl.load`.
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
        self._looks: OrderedDict[tuple[str, str, float], Look] = OrderedDict()
        self._looking, self._changing = threading.Lock(), threading.Lock()
        self._decode = IsolatedCall(
            time_limit=DECODING, memory_limit=MEMORY, modules=[read_clip.__module__]
        )
        # it takes seconds to start, which the first video need not wait for
        threading.Thread(target=self._decode, args=(int,), daemon=True).start()

    def videos(self) -> list[Video]:
        """List the videos, uploads last."""
        with self._changing:
            return [*self._videos.values(), *self._uploads.values()]

    def new_file(self) -> Path:
        """Name a file in the store that an upload may be written to."""
        return self.store / secrets.token_hex(16)

    def add(self, path: Path, name: str) -> Video:
        """Take up an uploaded file; the oldest ones beyond 20 are deleted.

        Raises:
            VideoError: it cannot be read, or is a long strip; the file is deleted.
        """
        name = shown(name)
        try:
            about = self._isolated(probe, path, name)
            if max(about.width, about.height) > LONGEST * min(about.width, about.height):
                raise VideoError(
                    name,
                    f"frames of {about.width}x{about.height} are too long a strip: one side may "
                    f"be {LONGEST} times the other",
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

    def look(self, video: str, network: str, moment: float) -> Look:
        """Look at a clip, or give the look that was kept.

        Raises:
            Unknown: no such video or network.
            VideoError: the video cannot be read.
            ValueError: a moment outside [0, 1].
        """
        with self._changing:
            found = self._videos.get(video) or self._uploads.get(video)
        if found is None:
            raise Unknown("this video is no longer here: choose or drop it again")
        if network not in self.networks:
            raise Unknown("this network is not here: choose another")
        if not 0 <= moment <= 1:
            raise ValueError(f"moment must be from 0 (first clip) to 1 (last); got {moment:g}")
        key = (video, network, moment)
        with self._looking:  # many who ask for one thing wait for one computation
            if key not in self._looks:
                model = self.networks[network]
                clip, view = self._isolated(
                    partial(read_clip, info=model.info, moment=moment), found.path, found.name
                )
                made = look_at_clip(model, clip, view, title=found.name)
                _ = made.summaries  # computed now, by one
                self._looks[key] = made
            self._looks.move_to_end(key)
            while len(self._looks) > KEPT:
                self._looks.popitem(last=False)
            return self._looks[key]

    def close(self) -> None:
        """End the decoding process, whatever it does."""
        self._decode.close()

    def _isolated(self, function: Callable[..., T], path: Path, name: str) -> T:
        result = self._decode(function, path)
        if isinstance(result, Failure):
            # the file's name in the store says nothing to who sent it
            raise VideoError(name, result.reason.replace(f"{path}: ", "").replace(str(path), name))
        return result


def shown(name: str) -> str:
    """Make a name that came from outside fit to be shown; it names no file.

    >>> shown("C:\\\\films\\\\one\\x00\\n.mp4")
    'one.mp4'
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    return clean[:NAME] or "video"


def videos_of(source: Path | None) -> list[Path]:
    """List the videos of a file, or of a folder and those below it; say what is left out.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the folder has no videos.
    """
    if source is None:
        return []
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"no video or folder at {source}")
    found = walk(source)
    if not found.videos:
        known = f"{', '.join(SUFFIXES[:6])} or folders of 00001.jpg"
        raise ValueError("; ".join([f"{source} has no videos, such as {known}", *found.notes()]))
    for note in found.notes():
        status.print(note, soft_wrap=True)
    return found.videos
