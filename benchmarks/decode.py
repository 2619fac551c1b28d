"""Clips per second and core: our reader against decoding whole videos, and other decoders.

    python benchmarks/decode.py [--data PATH_TO/data] [--rounds 3]

A draw is what training does for one sample: open a file, choose a random clip, decode it; with
"pipeline" also short side 256 to 320, a crop of 224 and a flip, up to uint8. One process, one
thread; the ways take turns, best of rounds. Ways whose package does not import are named as absent.
"""

from __future__ import annotations

import json
import platform
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import tyro
from rich.table import Table

from nonlocalnet.data.decode import VideoReader
from nonlocalnet.data.sampling import ClipSpec, random_clip
from nonlocalnet.data.transforms import resize_short_side
from nonlocalnet.runtime.log import print_wide, status

Way = Callable[[Path, ClipSpec, random.Random, bool], torch.Tensor]


def ours(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    with VideoReader(path) as video:
        chosen = random_clip(video.num_frames, clip, rng)
        return video.frames(chosen, short_side=320 if small else None)


def whole_video(path: Path, clip: ClipSpec, rng: random.Random, small: bool) -> torch.Tensor:
    """Decode the whole video to RGB, as the official code does, then choose."""
    with av.open(str(path)) as file:
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
    """Resize, crop and flip as `TrainTransform`, without its normalisation."""
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
    """Clips a round."""
    out: Path = Path(__file__).parent / "results/decode_cpu.json"


def measure(options: Options, folder: Path) -> list[dict[str, object]]:
    sets = {f"340x256, GOP {gop}": generate(folder, gop) for gop in (250, 12)}
    if options.data is not None:
        sets["real clips"] = sorted((options.data / "clips").glob("*.mp4"))
        sets["real clips, avi"] = sorted((options.data / "clips").glob("*.avi"))
        sets["grid"] = sorted((options.data / "grid/videos").glob("*.mp4"))[:8]
    rows: list[dict[str, object]] = []
    for name, paths in sets.items():
        for text in ("8x8", "32x2"):
            clip = ClipSpec.parse(text)
            for pipeline in (False, True):
                best: dict[str, float] = {}
                for round_ in range(options.rounds):
                    for way, load in WAYS.items():
                        rng, begin = random.Random(round_), time.perf_counter()
                        try:
                            for k in range(options.draws):
                                path = paths[(k + round_) % len(paths)]
                                frames = load(path, clip, rng, pipeline)
                                if pipeline:
                                    augment(frames, rng)
                        except Exception as error:  # absent, or a file it cannot read
                            status.print(f"{name}, {way}: {type(error).__name__}", markup=False)
                            continue
                        rate = options.draws / (time.perf_counter() - begin)
                        best[way] = max(rate, best.get(way, 0.0))
                rows.append({"videos": name, "clip": text, "pipeline": pipeline, "rate": best})
    return rows


def main(options: Options) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        warm = generate(Path(folder), 50)[0]
        absent = {}
        for name, way in list(WAYS.items()):
            try:
                way(warm, ClipSpec(8, 8), random.Random(0), False)
            except Exception as error:
                absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
                del WAYS[name]
        for name, reason in absent.items():
            status.print(f"absent: {name} ({reason})", markup=False)
        rows = measure(options, Path(folder))
    table = Table("videos", "clip", "", *WAYS, title="clips per second, one thread")
    for row in rows:
        rate = row["rate"]
        assert isinstance(rate, dict)
        cells = (f"{rate[way]:.1f}" if way in rate else "–" for way in WAYS)
        table.add_row(
            str(row["videos"]),
            str(row["clip"]),
            "pipeline" if row["pipeline"] else "decode",
            *cells,
        )
    print_wide(table)
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
    result = {"machine": machine, "pyav": av.__version__, "absent": absent, "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
