"""The explorer's web server: a page, its parts, and uploads that cannot do harm."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import math
import secrets
import socket
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from functools import partial
from importlib.resources import files
from string import Template
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.explorer.library import Library, Unknown
from nonlocalnet.explorer.uploads import Full, TooSlow, Uploads
from nonlocalnet.inspection import html_page as document

P = ParamSpec("P")
T = TypeVar("T")

MIB = 1 << 20
CHECKING = 8  # uploads that are here and may be videos, at once
WAITING = 64  # requests for a look, at once
OWN = ("explorer.js", "explorer.css")
SHARED = ("look.css", *(f"{name}.js" for name in document.MODULES))

TOO_SLOW = "the video came too slowly: send it again"
FULL = "several videos are being sent already: try again in a moment"
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def make_app(
    library: Library, *, host: str = "127.0.0.1", max_upload_mib: float = 256
) -> Starlette:
    """Make the web application.

    Args:
        library: what can be looked at.
        host: the address it is bound to. Requests by another name are refused, so that no page of
            the web can reach it by a name of its own (DNS rebinding). On a wildcard address every
            numeric address is taken, this machine's own name, and names that only a local network
            gives: without a dot, or in .local.
        max_upload_mib: of one video.
    """
    uploads = Uploads()
    checking, waiting = asyncio.Semaphore(CHECKING), asyncio.Semaphore(WAITING)
    most = int(max_upload_mib * MIB)

    async def index(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        names = {f"look/{name}": f"/static/{name}.js" for name in document.MODULES}
        names["look/explorer"] = "/static/explorer.js"
        text = Template(document.static("page.html")).substitute(
            title="What does the network look at?",
            note="Choose or drop a video, then point at a frame.",
            style='<link rel="stylesheet" href="/static/look.css">'
            '<link rel="stylesheet" href="/static/explorer.css">',
            imports=json.dumps({"imports": names}),
            parts="",
            start='import { start } from "look/explorer"; start();',
        )
        text = text.replace("<script ", f'<script nonce="{nonce}" ')
        policy = {"content-security-policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(text, headers=policy)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name in SHARED:
            text = document.static(name)
        elif name in OWN:
            text = files("nonlocalnet.explorer").joinpath("static", name).read_text("utf-8")
        else:
            raise Refused(404, "there is no such file")
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(text, media_type=kind)

    async def contents(request: Request) -> Response:
        return JSONResponse(
            {
                "networks": list(library.networks),
                "videos": [{"key": video.key, "name": video.name} for video in library.videos()],
                "max_upload_mib": max_upload_mib,
            }
        )

    async def upload(request: Request) -> Response:
        too_large = Refused(413, f"the video is larger than {max_upload_mib:g} MiB")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        if checking.locked():
            raise Full
        path = library.new_file()
        try:
            with uploads.place() as place, path.open("wb") as file:
                size = 0
                async for chunk in place.read(request.stream()):
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    file.write(chunk)
            if not size:
                raise Refused(400, "the file is empty")
            name = request.query_params.get("name", "")
            async with checking:
                video = await _in_thread(library.add, path, name)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise Refused(507, f"the video cannot be kept here: {error.strerror}") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return JSONResponse({"key": video.key, "name": video.name}, status_code=201)

    async def look(request: Request) -> Response:
        found = await _look(request)
        return JSONResponse(await _in_thread(document.about, found))

    async def part(request: Request) -> Response:
        found = await _look(request)
        name = request.path_params["name"]
        data = await _in_thread(document.part, found, name)
        if data is None:
            raise Refused(404, "there is no such part")
        return Response(data, media_type="application/octet-stream")

    async def _look(request: Request) -> Any:
        ask = request.query_params
        try:
            moment = float(ask.get("moment", "0.5"))
        except ValueError:
            moment = math.nan
        if not 0 <= moment <= 1:
            raise Refused(400, "moment must be a number from 0 to 1")
        if waiting.locked():
            raise Refused(503, "too many are waiting: try again in a moment")
        async with waiting:
            try:
                return await _in_thread(
                    library.look, ask.get("video", ""), ask.get("network", ""), moment
                )
            except MemoryError:
                raise Refused(507, "this machine has not enough memory to look at it") from None

    own = {"127.0.0.1", "localhost", "::1", host.lower()}
    if _is_wildcard(host):
        own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    routes = [
        Route("/", index),
        Route("/static/{name}", static),
        Route("/api/contents", contents),
        Route("/api/videos", upload, methods=["POST"]),
        Route("/api/look", look),
        Route("/api/parts/{name}", part),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=partial(_guard, partial(_is_own, own, host))),
        ],
        exception_handlers={
            Refused: _say(lambda error: error.status, lambda error: error.reason),
            TooSlow: _say(lambda error: 408, lambda error: TOO_SLOW),
            Full: _say(lambda error: 503, lambda error: FULL),
            Unknown: _say(lambda error: 404, str),
            VideoError: _say(lambda error: 422, str),
            ClientDisconnect: _say(lambda error: 400, lambda error: "the sender went away"),
            HTTPException: _say(lambda error: error.status_code, _http),
            Exception: _unforeseen,
        },
        lifespan=_closing(library),
    )


def is_loopback(host: str) -> bool:
    """Tell whether an address is of this machine alone."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a thread; at the end it is left to itself, or Ctrl-C would wait for it."""
    return await to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)


def _hostname(address: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{address}").hostname or ""
    return ""


def _is_wildcard(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def _is_own(own: Collection[str], host: str, name: str) -> bool:
    """Tell whether a name is this server's, and not one that a page of the web could have made."""
    if name in own or not _is_wildcard(host):
        return name in own
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name) is not None
    return bool(name) and ("." not in name or name.endswith(".local"))


def _is_foreign(request: Request) -> bool:
    """Tell whether another web page asks: browsers say so, other programs say nothing."""
    origin = request.headers.get("origin")
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") or (
        origin is not None and origin.partition("://")[2] != request.headers.get("host")
    )


def _say(
    status: Callable[[Any], int], reason: Callable[[Any], str]
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": reason(error)}, status_code=status(error))

    return answer


def _http(error: HTTPException) -> str:
    return {404: "there is no such page", 405: "this page cannot be asked in this way"}.get(
        error.status_code, error.detail
    )


async def _unforeseen(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return JSONResponse(
        {"error": "this went wrong in the server, whose terminal says more"}, status_code=500
    )


async def _guard(
    is_own: Callable[[str], bool], request: Request, call_next: RequestResponseEndpoint
) -> Response:
    if not is_own(_hostname(request.headers.get("host", ""))):
        reason = "this server does not go by that name: use the address that it printed"
        response: Response = JSONResponse({"error": reason}, status_code=421)
    elif request.url.path != "/" and _is_foreign(request):  # a link to the page does no harm
        response = JSONResponse({"error": "another web page may not use this"}, status_code=403)
    else:
        response = await call_next(request)
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["cross-origin-resource-policy"] = "same-origin"
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["cache-control"] = "no-store"
    return response


def _closing(
    library: Library,
) -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        yield
        library.close()

    return lifespan
