"""Clips per second and core: our reader against decoding whole videos, and other decoders.

    python benchmarks/decode.py [--data PATH_TO/data] [--rounds 3]

A draw is what training does for one sample: open a file, choose a random clip, decode it; with
"pipeline" also short side 256 to 320, a crop of 224 and a flip, up to uint8. One process, one
thread, and its own seconds (with those of FFmpeg's process, where a way starts one), so that other
jobs weigh little. The ways take turns at the same files and clips; best of rounds, of one where it
is slow. Ways whose package does not import are named as absent.

Results are rewritten after every row, and a row that the file has is not measured again.
"""

from __future__ import annotations

import json
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import av
import numpy as np
import torch
import tyro
from rich.table import Table

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.sampling import random_clip
from nonlocalnet.data.transforms import resize_short_side
from nonlocalnet.data.video.reader import VideoReader
from nonlocalnet.runtime.log import print_table, status

SLOW = 3.0  # seconds a round: then one is enough

Way = Callable[[Path, ClipSpec, random.Random, bool], torch.Tensor]


def ours(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    with VideoReader(path) as video:
        chosen = random_clip(video.num_frames, clip, rng)
        return video.frames(chosen, short_side=320 if small else None)


def whole_video(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    """Decode the whole video to RGB, as the official code does, then choose."""
    with av.open(str(path), metadata_errors="ignore") as file:
        file.streams.video[0].codec_context.thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    chosen = random_clip(len(frames), clip, rng)
    return torch.from_numpy(np.stack([frames[i] for i in chosen])).permute(0, 3, 1, 2)


def opencv(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    import cv2

    cv2.setNumThreads(1)
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    chosen = random_clip(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), clip, rng)
    video.set(cv2.CAP_PROP_POS_FRAMES, min(chosen))
    found = {}
    for i in range(min(chosen), max(chosen) + 1):
        if video.grab() and i in chosen:
            found[i] = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
    video.release()
    return torch.from_numpy(np.stack([found[i] for i in chosen])).permute(0, 3, 1, 2)


def decord(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    frames = video.get_batch(random_clip(len(video), clip, rng)).asnumpy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def torchcodec(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(str(path), num_ffmpeg_threads=1)
    return video.get_frames_at(random_clip(len(video), clip, rng)).data


def imageio_ffmpeg(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path), input_params=["-threads", "1"])
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    chosen = random_clip(len(frames), clip, rng)
    return torch.from_numpy(np.stack([frames[i] for i in chosen])).permute(0, 3, 1, 2)


WAYS: dict[str, Way] = {
    "ours": ours,
    "PyAV, whole video": whole_video,
    "OpenCV": opencv,
    "decord": decord,
    "torchcodec": torchcodec,
    "imageio-ffmpeg": imageio_ffmpeg,
}


def augment(frames: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Resize, crop and flip as `TrainTransform`, without its normalization."""
    frames = resize_short_side(frames, rng.randint(256, 320))
    top, left = (rng.randint(0, n - 224) for n in frames.shape[2:])
    frames = frames[:, :, top : top + 224, left : left + 224]
    return (frames.flip(3) if rng.random() < 0.5 else frames).contiguous()


def generate(folder: Path, gop: int) -> list[Path]:
    """Write two H.264 videos of 340x256, 10 s at 30 fps: a texture that moves."""
    rng, paths = np.random.default_rng(0), []
    coarse = rng.integers(0, 255, (40, 100, 3), dtype=np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    for k in range(2):
        path = folder / f"gop{gop}_{k}.mp4"
        with av.open(str(path), "w") as file:
            options = {"g": str(gop), "x264-params": "scenecut=0", "crf": "23"}
            stream = file.add_stream("libx264", rate=30, options=options)
            stream.height, stream.width, stream.pix_fmt = 256, 340, "yuv420p"
            for t in range(300):
                view = texture[20 + k : 276 + k, t : 340 + t].astype(np.int16)
                noisy = (view + rng.integers(-6, 7, view.shape)).clip(0, 255).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noisy), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    data: Path | None = None
    """A folder with clips/ and grid/videos/, real videos to be measured too."""
    rounds: int = 3
    """The best of so many counts."""
    draws: int = 8
    """Clips a round; of real videos, at least one of each."""
    again: bool = False
    """Measure what the file has, too."""
    out: Path = Path(__file__).parent / "results/decode_cpu.json"


def video_sets(options: Options, folder: Path) -> dict[str, list[Path]]:
    sets = {f"340x256, GOP {gop}": generate(folder, gop) for gop in (250, 12)}
    if options.data is not None:
        sets["real clips, mp4"] = sorted((options.data / "clips").glob("*.mp4"))
        sets["real clips, avi"] = sorted((options.data / "clips").glob("*.avi"))
        sets["GRID"] = sorted((options.data / "grid/videos").glob("*.mp4"))[:6]
    return sets


def seconds() -> float:
    """This process's own seconds, and those of processes that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rates(paths: list[Path], text: str, pipeline: bool, options: Options) -> dict[str, float]:
    """Clips per second of each way that can read all of the files."""
    clip, best = ClipSpec.parse(text), dict.fromkeys(WAYS, 0.0)
    draws = max(options.draws, len(paths))
    for round_ in range(options.rounds):
        for way in [way for way in best if not round_ or best[way] > draws / SLOW]:
            rng, begin = random.Random(0), seconds()
            try:
                for k in range(draws):
                    frames = WAYS[way](paths[k % len(paths)], clip, rng, pipeline)
                    if pipeline:
                        augment(frames, rng)
            except Exception as error:  # a file it cannot read
                status.print(f"{text}, {way}: {type(error).__name__}", markup=False)
                del best[way]
                continue
            best[way] = max(best[way], draws / (seconds() - begin))
    return best


def main(options: Options) -> None:
    torch.set_num_threads(1)
    result: dict = {
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__},
        "pyav": av.__version__,
        "rows": [],
    }
    if options.out.exists():
        result["rows"] = json.loads(options.out.read_text())["rows"]
    with tempfile.TemporaryDirectory() as folder:
        warm = generate(Path(folder), 50)[0]
        absent = result["absent"] = {}
        for name, way in list(WAYS.items()):
            try:
                way(warm, ClipSpec(8, 8), random.Random(0), False)
            except Exception as error:
                absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
                del WAYS[name]
        for name, reason in absent.items():
            status.print(f"absent: {name} ({reason})", markup=False)
        sets = video_sets(options, Path(folder))
        for name, text, pipeline in product(sets, ("8x8", "32x2"), (False, True)):
            row = {"videos": name, "clip": text, "pipeline": pipeline}
            known = [old for old in result["rows"] if row.items() <= old.items()]
            if known and not options.again:
                continue
            row["rate"] = rates(sets[name], text, pipeline, options)
            result["rows"] = [old for old in result["rows"] if old not in known] + [row]
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("videos", "clip", "", *WAYS, title="clips per second, one thread")
    for row in result["rows"]:
        rate = row["rate"]
        cells = (f"{rate[way]:.1f}" if way in rate else "–" for way in WAYS)
        table.add_row(
            str(row["videos"]),
            str(row["clip"]),
            "pipeline" if row["pipeline"] else "decode",
            *cells,
        )
    print_table(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
