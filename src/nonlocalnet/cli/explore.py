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
from typing import TYPE_CHECKING, NoReturn

import tyro

from nonlocalnet.cli.network import check_weights, load_network
from nonlocalnet.clips import ClipSpec
from nonlocalnet.networks.options import parse_options
from nonlocalnet.options import check_paths, setting

if TYPE_CHECKING:
    from uvicorn import Server

    from nonlocalnet.networks.video_resnet import VideoResNet


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet explore`."""

    weights: tuple[Path, ...]
    """Weights in any known format, or names of releases; several can be compared."""
    source: tyro.conf.Positional[Path | None] = setting(
        None, names="a video, or a folder of videos"
    )
    """A video, or a folder of videos to choose from; others can be dropped on the page."""
    clip: str | None = setting(None, parse=ClipSpec.parse)
    """FRAMESxRATE, if the weights do not contain it."""
    set: tuple[str, ...] = setting((), parse=parse_options)
    """NAME=VALUE: network arguments that the weights do not contain."""
    host: str = "127.0.0.1"
    """Address to listen on; with any other than a local one, other machines have access."""
    port: int = setting(8734, least=0, most=65535)
    """Port to listen on; 0 takes a free one."""
    max_upload_mib: float = setting(256.0, above=0, below=math.inf)
    """Largest video that can be dropped."""
    open: bool = False
    """Open the page in the browser."""
    device: str = "auto"
    """cpu, cuda, ...; auto uses a GPU if there is one."""


def command(options: Options) -> NoReturn:
    if not options.weights:
        raise ValueError("name the weights of at least one network: --weights W")
    for weights in options.weights:
        check_weights(weights)
    check_paths(options)

    from nonlocalnet.explorer.connection import make_server
    from nonlocalnet.explorer.library import Library, videos_of
    from nonlocalnet.explorer.server import is_loopback, make_app
    from nonlocalnet.runtime.log import status

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
                f"Anyone who can reach port {port} of this machine can see these videos, upload "
                "others and use its processor: there is no password and no encryption. To use "
                "ssh -L, or a proxy with both, leave --host at its default.",
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
    """Let SIGTERM, and SIGHUP of a closed terminal, end the server; return the list of signals.

    Nothing is raised, since a signal can arrive in the middle of any statement.
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
    """End the process at once: the interpreter would wait for threads that still compute.

    Child processes are killed, since those of multiprocessing notice the end only after their
    imports. The empty folder for compiled code that importing torchvision creates is removed.
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
    """List all processes that descend from this one, on systems with /proc."""
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
    from nonlocalnet.inspection.analysis import non_local_blocks

    networks: dict[str, VideoResNet] = {}
    for path in options.weights:
        model = load_network(path, options.clip, options.set, options.device, takes="videos")
        if not non_local_blocks(model):
            raise ValueError(f"the network of {path} has no non-local block to look at")
        model.eval()
        # runs of `nonlocalnet train` are named by their folders
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
        listener.listen()  # before the address is printed
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror}): "
            "choose another --port, 0 for any"
        ) from None
    return listener
