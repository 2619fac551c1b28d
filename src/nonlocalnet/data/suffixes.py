"""Recognize videos by the names of files: what FFmpeg reads, without sound and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# the usual ones first: if a list names a video without its suffix, the first of these is taken
_NAMES = """
mp4 avi mkv webm mov m4v mpg mpeg wmv flv 3gp 3g2 3gpp 3gp2 ogv ogm ogx ogg mts m2ts ts m2t m2p tp
trp tod mod vob evo dvd asf rm rmvb ivr divx xvid qt f4v mj2 mk3d gif apng
mxf gxf lxf dv dif cine mlv ser dav ifv imx mxg mpv ismv wtv ty ty+ dvr-ms nut nsv
264 h264 h26l 26l avc 265 h265 hevc 266 h266 vvc h261 h263 ivf obu m1v m2v mp2v mpv2 mjpeg mjpg
y4m drc vc1 vc2 rcv avs avs2 avs3 cavs evc apv dnxhd dnxhr ipu
swf amv psp pmp bik smk roq vqa fli flc flm cpk nuv pva viv vivo mve mvi mtv thp usm xmv kux lvf
moflex mods pdv rl2 rpl sga vmd yop cdxl hnm dxa gdv jv bmv bfi anm c93 4xm cdg
"""  # for people; of cameras and studios; coded frames without a container; of games
SUFFIXES = tuple(f".{name}" for name in _NAMES.split())


def _holds_no_text(head: bytes) -> bool:
    return not head or b"\0" in head  # an empty file is a broken video


def _holds_pictures(head: bytes) -> bool:
    codecs = (b"theora", b"BBCD", b"OVP80", b"video")
    return not head or any(codec in head for codec in codecs)


# TypeScript and sound have the same suffixes; a transport stream's first packets hold zeros
_CONTENT: dict[str, Callable[[bytes], bool]] = {".ts": _holds_no_text, ".ogg": _holds_pictures}


def is_video(name: str) -> bool:
    """Whether a name is that of a video; hidden files are not, as programs write them midway."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def is_video_file(path: Path) -> bool:
    """Whether a file is a video by its name and, for .ts and .ogg, by how it begins."""
    if not is_video(path.name):
        return False
    judge = _CONTENT.get(path.suffix.lower())
    if judge is None:
        return True
    try:
        with path.open("rb") as file:
            return judge(file.read(4096))
    except OSError:  # the error is reported when the video is read
        return True
