"""What a format gets and gives: where a data set is, and what its files list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nonlocalnet.data.find_videos import FoundVideos, find_videos
from nonlocalnet.data.packs.video import PackedVideo


@dataclass(frozen=True)
class Entry:
    """A video as a data set lists it.

    Args:
        name: as it is written; messages and results show it.
        label: the name of its class, or its class numbers: one, several or none.
        path: its file or its folder of frames; None where there is neither.
        where: file and line, for messages.
        num_frames: the number of frames that the list gives.
    """

    name: str
    label: str | tuple[int, ...]
    path: Path | PackedVideo | None
    where: str
    num_frames: int | None = None


@dataclass(frozen=True)
class Annotations:
    """What a format read.

    Args:
        train: the videos to train on; of a source without splits, all.
        val: the videos to validate on.
        classes: the names of the classes in the order of their numbers; None where the files give
            numbers only.
        pattern: turns such a number into a name.
        multi_label: videos may have several labels or none.
        mirrored: a mirrored video keeps its label; False where labels say left and right.
        notes: sentences about what was left out and what looks wrong.
        faults: sentences about classes that cannot be meant: the data can be read, not trained on.
        test: the videos of a further split, which no command uses: `data check` does not take them
            for unlisted ones.
        walked: the notes already cover all files of the folder.
    """

    train: list[Entry]
    val: list[Entry]
    classes: list[str] | None
    pattern: str = "{}"
    multi_label: bool = False
    mirrored: bool = True
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    test: list[Entry] = field(default_factory=list)
    walked: bool = False


@dataclass(frozen=True)
class Source:
    """Where a data set is: a folder, or one list or table.

    Args:
        path: the folder or file.
        root: the folder of the videos, where it is another one.
        classes: class names that replace the data set's own.
        split: 1 to 3, for the data sets that have several.
    """

    path: Path
    root: Path | None = None
    classes: Sequence[str] | None = None
    split: int = 1

    @property
    def folder(self) -> Path:
        """The folder, or the one that the file is in."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def videos(self) -> FoundVideos:
        """All videos below the root, to be found by name; the first use lists every folder."""
        return find_videos(self.root or self.folder)

    def find_file(self, *patterns: str) -> Path | None:
        """Find the first file that matches a pattern, in the folder or one level below.

        Returns:
            None where there is none, or where the source is a file: that is `path` itself.
        """
        for pattern in patterns if self.path.is_dir() else ():
            for found in (*self.path.glob(pattern), *sorted(self.path.glob(f"*/{pattern}"))):
                return found
        return None

    def check_split(self, file: Path) -> None:
        """Raise a ValueError if the file of the requested split does not exist."""
        if not file.exists():
            raise ValueError(f"{self.path} has no split {self.split}: there is no {file}")
