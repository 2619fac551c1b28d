"""See what any point of a video attends to, in the browser, on this machine."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import tyro
from uvicorn import Server

from nonlocalnet.cli.network import load_network
from nonlocalnet.explorer.connection import make_server
from nonlocalnet.explorer.library import Library, videos_of
from nonlocalnet.explorer.server import is_loopback, make_app
from nonlocalnet.inspection.analysis import non_local_blocks
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import status


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet explore`."""

    weights: tuple[Path, ...]
    """Weights of any known format, or names of releases; several can be compared."""
    source: tyro.conf.Positional[Path | None] = None
    """A video, or a folder of videos to choose from; others can be dropped on the page."""
    clip: str | None = None
    """FRAMESxRATE, where the weights do not say it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: arguments of the network that the weights do not say."""
    host: str = "127.0.0.1"
    """Address to listen at; another than this machine's own lets others in."""
    port: int = 8734
    """Port to listen at; 0 takes a free one."""
    max_upload_mib: float = 256.0
    """Largest video that can be dropped."""
    open: bool = False
    """Open the page in the browser."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> NoReturn:
    if not options.weights:
        raise ValueError("name the weights of at least one network: --weights W")
    if not 0 < options.max_upload_mib < math.inf:
        raise ValueError(f"--max-upload-mib must be positive; got {options.max_upload_mib:g}")
    videos = videos_of(options.source)
    networks = _load(options)
    with tempfile.TemporaryDirectory(prefix="nonlocalnet-") as store, _listen(options) as listener:
        library = Library(networks, videos, Path(store))
        app = make_app(library, host=options.host, max_upload_mib=options.max_upload_mib)
        server = make_server(app)
        ended = _end_by_signals(server)
        port = listener.getsockname()[1]
        shown = f"[{options.host}]" if ":" in options.host else options.host
        if not is_loopback(options.host):
            status.print(
                f"Anyone who reaches this machine at port {port} can see these videos, send others "
                "and use its processor: there is no password and no encryption. Behind ssh -L or a "
                "proxy with both, leave --host as it is.",
                soft_wrap=True,
            )
        address = f"http://{shown}:{port}/"
        status.print(f"{address}  (Ctrl-C ends)", soft_wrap=True)
        if options.open:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        library.close()
    _leave(128 + ended[0] if ended else 0)


def _end_by_signals(server: Server) -> list[int]:
    """Let SIGTERM, and SIGHUP where a terminal closes, end the server; they are kept in the list.

    Nothing is raised, as that could be in the midst of anything.
    """
    ended: list[int] = []

    def end(number: int, frame: object) -> None:
        ended.append(number)
        server.should_exit = True

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, end)
    return ended


def _leave(code: int) -> NoReturn:
    """End at once: the interpreter would wait for the thread of a look that nobody will see.

    With it end its processes: multiprocessing's own notice the end only when they have imported
    what they import, torch among it. An empty folder for compiled code, which importing torchvision
    makes, goes too.
    """
    atexit._run_exitfuncs()
    for process in _descendants():
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    compiled = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "."))
    if compiled.parent == Path(tempfile.gettempdir()) and compiled.name.startswith("torchinductor"):
        with contextlib.suppress(OSError):
            compiled.rmdir()
    sys.stdout.flush()
    os._exit(code)


def _descendants() -> list[int]:
    """List the processes that this one and those started, where the system tells."""
    started: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
            started.setdefault(parent, []).append(int(path.parent.name))
    found = [os.getpid()]
    for process in found:
        found += started.get(process, [])
    return found[1:]


def _load(options: Options) -> dict[str, VideoResNet]:
    networks: dict[str, VideoResNet] = {}
    for path in options.weights:
        model = load_network(path, options.clip, options.set, takes="videos")
        if not non_local_blocks(model):
            raise ValueError(f"the network of {path} has no non-local block to look at")
        model.to(pick_device(options.device)).to(memory_format=torch.channels_last_3d).eval()
        # runs of `nonlocalnet train` are told apart by their folders
        own = path.name not in ("model.safetensors", "best.safetensors")
        name = path.stem if own else path.absolute().parent.name
        networks[name if name not in networks else str(path)] = model
    return networks


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen()  # so that whoever reads the address can use it
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "ports end at 65535"
        raise ValueError(
            f"cannot listen at {options.host}:{options.port} ({reason}): "
            "choose another --port, 0 for any"
        ) from None
    return listener
