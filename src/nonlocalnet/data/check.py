"""Check which videos of a data set can be used: decode every file to its end."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import av
from av.logging import Capture

from nonlocalnet.data.datasets import VideoRecord, VideoSplits
from nonlocalnet.data.find_videos import LISTS, find_videos, name_some
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.video.frame_folder import ASSUMED_RATE, FrameFolder
from nonlocalnet.data.video.frame_index import decode_in_order, index_frames
from nonlocalnet.data.video.open import VideoError, open_video
from nonlocalnet.data.video.rotation import shown_size
from nonlocalnet.errors import FileError
from nonlocalnet.runtime.isolated import Failure, run_isolated

UNFIT = ("unreadable", "damaged", "short", "duplicate", "leak")
KINDS = (*UNFIT, "duration", "missing", "unlisted", "frames", "class")
SLACK = 0.5  # seconds by which a header's duration may be off


@dataclass(frozen=True)
class FileReport:
    """What decoding a whole file showed.

    Args:
        frames: how many were decoded.
        seconds: from the first frame to the end of the last, by their time stamps.
        announced_frames, announced_seconds: what the header says; 0 where it says nothing.
        damage: what is wrong with some frames.
        error: why the file cannot be decoded to its end.
        digest: SHA-256 of the content.
        height, width: of the first frame as shown.
        missing: numbers between the frames of a folder.
    """

    frames: int = 0
    seconds: float = 0.0
    announced_frames: int = 0
    announced_seconds: float = 0.0
    damage: str = ""
    error: str = ""
    digest: str = ""
    height: int = 0
    width: int = 0
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One fault of a data set: its kind, one of `KINDS`, the video, and what is wrong."""

    kind: str
    path: str
    text: str
    split: str = ""


@dataclass
class CheckReport:
    """All findings of a check, and the good videos of each split."""

    files: dict[str, FileReport] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    good: dict[str, list[VideoRecord]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Count the findings of each kind."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def as_json(self) -> str:
        """Write the whole report as JSON."""
        content = {
            "counts": self.counts(),
            "good": {split: len(records) for split, records in self.good.items()},
            "notes": self.notes,
            "findings": [asdict(finding) for finding in self.findings],
            "files": {path: asdict(report) for path, report in self.files.items()},
        }
        return json.dumps(content, indent=1) + "\n"


def check_file(path: Path | PackedVideo) -> FileReport:
    """Decode a whole file and report what is wrong with it; this does not raise.

    Damage is what FFmpeg repairs and only says in its log, frames that a header or the packets
    announce but decoding does not give, and bytes of a packed video that are not those packed.
    """
    try:
        if isinstance(path, PackedVideo) and not path.is_intact():
            return FileReport(error=f"{path.shard} has other bytes there than were packed")
        if path.is_dir():
            return _decode_folder(path)
        with path.open() if isinstance(path, PackedVideo) else path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # the decoder logs what it does not raise
        av.logging.set_level(av.logging.ERROR)
        with Capture(local=True) as log:
            report = _decode_whole(path)
        messages = [text.strip() for level, _, text in log if level <= av.logging.ERROR]
    except (FileError, OSError) as error:
        reason = error.reason if isinstance(error, FileError) else error.strerror
        return FileReport(error=str(reason))
    damage = report.damage or ("; ".join(dict.fromkeys(messages[:3])) if messages else "")
    return replace(report, digest=digest, damage=damage)


def _decode_folder(path: Path | PackedVideo) -> FileReport:
    with FrameFolder(path) as folder:
        digest = hashlib.sha256()
        for picture in folder.pictures:
            digest.update(hashlib.sha256(folder.read(picture)).digest())
        sizes = [(f.height, f.width) for f in folder.decode(range(folder.num_frames))]
        return FileReport(
            folder.num_frames,
            folder.num_frames / ASSUMED_RATE,
            digest=digest.hexdigest(),
            height=sizes[0][0],
            width=sizes[0][1],
            missing=tuple(folder.missing),
        )


def _decode_whole(path: Path | PackedVideo) -> FileReport:
    container, stream = open_video(path)
    with container:
        index = index_frames(path, container, stream)
        announced, alone = stream.frames, len(container.streams) == 1
        if stream.duration is not None and stream.time_base is not None:
            promised = float(stream.duration * stream.time_base)
        else:
            promised = (container.duration or 0) / av.time_base if alone else 0.0
    container, stream = open_video(path)
    frames = corrupt = height = width = 0
    with container:
        try:
            for frame in decode_in_order(container, stream, index.unusable):
                if not frames:
                    height, width = shown_size(frame)
                frames += 1
                corrupt += frame.is_corrupt
        except av.FFmpegError as error:
            reason = f"decoding fails after {frames} of {index.num_frames} frames"
            raise VideoError(path, f"{reason} ({error.strerror})") from error
    if not frames:
        raise VideoError(path, "the video stream holds no frames")
    damage = f"{corrupt} of {frames} frames are corrupt" if corrupt else ""
    if index.packets < announced:  # a header counts packets: some show nothing
        damage = f"its header announces {announced} frames, {index.packets} are there"
    elif frames < index.num_frames:
        damage = f"only {frames} of {index.num_frames} frames can be decoded"
    return FileReport(
        frames, index.duration, announced, promised, damage, height=height, width=width
    )


def check_dataset(
    data: VideoSplits,
    *,
    folder: Path | None = None,
    workers: int = 1,
    min_frames: int = 1,
    time_limit: float = 120.0,
    journal: Path | None = None,
    progress: Callable[[int, str], None] = lambda done, text: None,
) -> CheckReport:
    """Decode all videos of a data set to their end, in separate processes.

    This finds files that are unreadable (or kill their process, or take too long), damaged, short,
    or of another duration than their header says; duplicates, by their bytes, within a split, and
    leaks, the same video in training and validation; listed videos that do not exist, and videos
    below `folder` that no list names; frames that are missing among others, or not as many as a
    list says; classes that only one split has. The first of several duplicates is good; a leak is
    good in validation only.

    Args:
        data: the data set.
        folder: where to look for videos that no list names.
        workers: processes.
        min_frames: shorter videos are reported.
        time_limit: seconds for one file.
        journal: a file that keeps the results, one a line; files that did not change since are not
            decoded again.
        progress: called with a number of files done and the count of bad ones so far.
    """
    splits = data.splits
    paths = list(dict.fromkeys(r.path for records in splits.values() for r in records))
    report = CheckReport(notes=list(data.notes))
    report.findings += [Finding("class", "", fault) for fault in data.faults]
    known = _read_journal(journal)
    todo = []
    for path in paths:
        stamp = _stamp(path)
        if stamp in known:
            report.files[str(path)] = known[stamp]
        else:
            todo.append((path,))
    bad = sum(bool(r.error or r.damage) for r in report.files.values())
    progress(len(report.files), f"{bad} bad")
    for i, result in run_isolated(check_file, todo, workers=workers, time_limit=time_limit):
        (path,) = todo[i]
        found = FileReport(error=result.reason) if isinstance(result, Failure) else result
        report.files[str(path)] = found
        if journal is not None and not isinstance(result, Failure):
            journal.parent.mkdir(parents=True, exist_ok=True)
            with journal.open("a") as file:
                file.write(json.dumps([*_stamp(path), asdict(found)]) + "\n")
        bad += bool(found.error or found.damage)
        progress(1, f"{bad} bad")
    report.findings += [
        Finding("missing", name, "listed, but there is no such file") for name in data.absent
    ]
    _judge(splits, report, min_frames)
    if folder is not None and folder.is_dir():
        files = [path for path in (*paths, *data.test) if isinstance(path, Path)]
        listed = {path.resolve() for path in files}
        found = find_videos(folder)
        report.notes += [] if data.walked else found.notes(known=LISTS)
        report.findings += [
            Finding("unlisted", str(path), "in no split")
            for path in found.videos
            if path.resolve() not in listed
        ]
    return report


def _judge(splits: dict[str, list[VideoRecord]], report: CheckReport, min_frames: int) -> None:
    """Find what is wrong with each video; validation first, as it keeps videos that leaked."""
    first: dict[str, tuple[str, Path | PackedVideo]] = {}
    for split in reversed(list(splits)):
        good = report.good[split] = []
        for record in splits[split]:
            file = report.files[str(record.path)]
            found = list(_faults(file, min_frames, record.num_frames))
            if file.digest in first:
                other, path = first[file.digest]
                kind = "duplicate" if other == split else "leak"
                found.append((kind, f"the same video as {path} of {other}"))
            elif file.digest:
                first[file.digest] = split, record.path
            report.findings += [Finding(k, str(record.path), text, split) for k, text in found]
            if not any(kind in UNFIT for kind, _ in found):
                good.append(record)


def _faults(file: FileReport, min_frames: int, listed: int | None) -> Iterator[tuple[str, str]]:
    if file.error:
        yield "unreadable", file.error
        return
    if file.damage:
        yield "damaged", file.damage
    if file.frames < min_frames:
        yield "short", f"{file.frames} frames, at least {min_frames} are needed"
    if file.missing:
        names = [str(number) for number in file.missing]
        yield "frames", name_some("{} number{s} {is} missing between its frames", names)
    if listed is not None and file.frames != listed:
        yield "frames", f"its list says {listed} frames, {file.frames} are there, and used"
    off = abs(file.announced_seconds - file.seconds)
    if file.announced_seconds and file.seconds and off > max(SLACK, 0.05 * file.seconds):
        yield (
            "duration",
            f"its header says {file.announced_seconds:.2f} s, its frames last {file.seconds:.2f} s",
        )


def write_good(report: CheckReport, classes: list[str], folder: Path) -> list[Path]:
    """Write the good videos as a data set: train.txt, val.txt ("PATH LABEL") and classes.txt.

    Returns:
        The lists that were written; a split without good videos has none.

    Raises:
        ValueError: a path or class name cannot stand in a list, which has one a line.
    """
    paths = [str(record.path) for records in report.good.values() for record in records]
    for name in (*paths, *classes):
        if any(mark in name for mark in "\r\n") or name != name.strip():
            raise ValueError(f"{name!r} cannot stand in a list, which has a name a line: rename it")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split, records in report.good.items():
        lines = [
            f"{record.path.absolute()} {','.join(map(str, record.labels)) or '-'}\n"
            for record in records
        ]
        file = folder / f"{split}.txt"
        if lines:
            file.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
            written.append(file)
        else:
            file.unlink(missing_ok=True)  # of an earlier check
    text = "".join(f"{name}\n" for name in classes)
    (folder / "classes.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    return written


def _stamp(path: Path | PackedVideo) -> tuple[str, int, int]:
    if isinstance(path, PackedVideo):
        return str(path), path.length, int(path.sha256[:15], 16)
    try:
        status = path.stat()
        if path.is_dir():  # a change of a picture does not change its folder
            inside = [picture.stat() for picture in path.iterdir()]
            latest = max((entry.st_mtime_ns for entry in inside), default=0)
            return str(path), sum(entry.st_size for entry in inside), latest
    except OSError:
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns


def _read_journal(journal: Path | None) -> dict[tuple[str, int, int], FileReport]:
    known = {}
    if journal is not None and journal.is_file():
        for line in journal.read_text().splitlines():
            try:
                *stamp, report = json.loads(line)
                missing = tuple(report.pop("missing"))
                known[tuple(stamp)] = FileReport(**report, missing=missing)
            except (
                ValueError,
                TypeError,
                KeyError,
                AttributeError,
            ):  # cut, or of an older version
                continue
    return known
