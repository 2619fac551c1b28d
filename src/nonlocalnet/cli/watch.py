"""Classify a video while it arrives: print the most probable classes of each moment, and write them
as JSON lines with latency and dropped frames."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections import deque
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import tyro

from nonlocalnet.cli.network import VideoNetworkOptions, check_weights, load_network
from nonlocalnet.data.video.source import Source
from nonlocalnet.options import setting
from nonlocalnet.training.signals import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from rich.table import Table

    from nonlocalnet.evaluation.watching import Prediction

REFRESH = 0.1  # seconds between two pictures on a terminal
LINES = 1.0  # seconds between two lines elsewhere
LATENCIES = 10_000  # of the last results, for the summary


@dataclass(frozen=True, kw_only=True)
class Options(VideoNetworkOptions):
    """Options of `nonlocalnet watch`."""

    source: tyro.conf.Positional[str]
    """A camera such as /dev/video0; an address (rtsp, rtsps, rtmp, rtmps, http, https, udp, tcp); a
    file that grows; or - for standard input."""
    top: int = setting(5, least=1)
    """Number of classes to show and write."""
    every: float | None = setting(None, above=0, below=math.inf)
    """Seconds between two rolling clips. Default: a result for every frame if the network is a C2D
    network with frame-causal blocks, or else 1."""
    window: float | None = setting(None, above=0, below=math.inf)
    """Seconds that a rolling clip covers; default: the length of the network's own clip."""
    side: int | None = setting(None, least=1)
    """Short side of the frames, in pixels; default: that of the weights."""
    crop: int | Literal["whole"] | None = setting(None, least=1)
    """Side of the center crop, in pixels (default: the short side); "whole" takes the whole
    frame."""
    json: Path | None = None
    """A file to which one JSON object per result is appended; - prints them instead of the table or
    lines."""
    duration: float = setting(math.inf, above=0)
    """Seconds after which to stop."""
    idle: float = setting(10.0, above=0)
    """Seconds without data after which a file has ended, and a camera or an address is lost."""
    retries: int = setting(10, least=0)
    """Attempts to connect again, in a row, after a loss: after 1, 2, 4, ... seconds, up to 30."""


@sigterm_as_ctrl_c()
def command(options: Options) -> int:
    source = Source.parse(options.source)
    check_weights(options.weights)

    from nonlocalnet.evaluation.watching import watch

    model = load_network(options.weights, options.clip, options.set, options.device, takes="videos")
    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("every", "window", "side", "crop", "top", "idle", "retries", "duration")
    }
    lines = options.json is not None and str(options.json) == "-"
    with (
        _open(options.json) as file,
        _Screen(source.name, quiet=lines) as screen,
        closing(watch(model, source, **given, tell=screen.tell)) as predictions,
    ):
        for prediction in predictions:
            if file is not None:
                _write(file, prediction)
            screen.show(prediction)
    return 0


def _open(path: Path | None) -> Any:
    """Open the file for the results; nothing closes standard output."""
    if path is None or str(path) == "-":
        return nullcontext(None if path is None else sys.stdout)
    return path.open("a")


def _write(file: TextIO, prediction: Prediction) -> None:
    import json

    row = dataclasses.asdict(prediction) | {"classes": dict(prediction.classes)}
    row |= {"time": round(prediction.time, 3), "latency": round(prediction.latency, 4)}
    file.write(json.dumps(row) + "\n")
    file.flush()


class _Screen:
    """Show results as they come, on a terminal in one place, elsewhere as lines; then a summary."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        from rich.live import Live

        from nonlocalnet.runtime.log import console, status

        self._name, self._quiet = name, quiet
        self._live = None
        if console.is_terminal and not quiet:
            self._live = Live(console=console, auto_refresh=False)
        # what is said appears above the picture
        self._status = status if self._live is None else console
        self._begin, self._shown = time.monotonic(), -math.inf
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._count, self._last = 0, None

    def __enter__(self) -> _Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            if self._last is not None:
                self._live.update(self._table(self._last), refresh=True)
            self._live.stop()
        self.tell(self._summary())

    def tell(self, text: str) -> None:
        """Say a sentence."""
        self._status.print(text, soft_wrap=True)

    def show(self, prediction: Prediction) -> None:
        """Show a result, unless one was shown a moment ago."""
        self._count, self._last = self._count + 1, prediction
        self._latencies.append(prediction.latency)
        now = time.monotonic()
        if self._quiet or now - self._shown < (REFRESH if self._live else LINES) * 0.9:
            return
        self._shown = now
        if self._live is not None:
            self._live.update(self._table(prediction), refresh=True)
            return
        from nonlocalnet.runtime.log import console

        best = ", ".join(f"{name} {value:.2f}" for name, value in prediction.classes)
        console.print(f"{prediction.time:8.1f} s  {best}  ({_facts(prediction)})", soft_wrap=True)

    def _table(self, prediction: Prediction) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        title = f"{self._name}  {prediction.time:.1f} s"
        table = Table("class", "probability", "", title=title, caption=_facts(prediction))
        for name, value in prediction.classes:
            table.add_row(name, f"{value:.3f}", ProgressBar(total=1, completed=value, width=20))
        return table

    def _summary(self) -> str:
        seconds = time.monotonic() - self._begin
        text = f"{self._name}: watched for {seconds:.0f} s, {self._count} results"
        if self._last is None:
            return text
        known = sorted(self._latencies)
        half, most = (known[int(share * (len(known) - 1))] for share in (0.5, 0.95))
        return (
            f"{text}, latency {1000 * half:.0f} ms (median) and {1000 * most:.0f} ms (95%), "
            f"{_lost(self._last)}"
        )


def _facts(prediction: Prediction) -> str:
    return f"latency {1000 * prediction.latency:.0f} ms, {_lost(prediction)}"


def _lost(prediction: Prediction) -> str:
    """Say what is missing: all that is above 0."""
    counts = {
        "frames dropped": prediction.dropped_frames,
        "clips dropped": prediction.dropped_clips,
        "frames damaged": prediction.damaged_frames,
        "connections lost": prediction.losses,
    }
    told = [f"{name}: {count}" for name, count in counts.items() if count]
    return ", ".join(told) or "nothing dropped"
