"""The web application of the explorer: the page, its data, and safe uploads."""

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
from nonlocalnet.explorer.library import Library, NotFound
from nonlocalnet.explorer.uploads import Full, TooSlow, Uploads
from nonlocalnet.inspection import html_page

P = ParamSpec("P")
T = TypeVar("T")

MIB = 1 << 20
CHECKING = 8  # complete uploads that are being checked, at once
WAITING = 64  # requests for a scene, at once
OWN = ("explorer.js", "explorer.css")
SHARED = ("look.css", *(f"{name}.js" for name in html_page.MODULES))

TOO_SLOW = "the upload was too slow: send the video again"
FULL = "several videos are being uploaded already: try again in a moment"
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def make_app(
    library: Library, *, host: str = "127.0.0.1", max_upload_mib: float = 256
) -> Starlette:
    """Create the web application.

    Args:
        library: the networks and videos.
        host: the address that the server listens at. Requests for another host are refused, so that
            no web page can reach the server under a name of its own (DNS rebinding). On a wildcard
            address, these are accepted: numeric addresses, this machine's name, and names of local
            networks (without a dot, or in .local).
        max_upload_mib: maximum size of a video.
    """
    uploads = Uploads()
    checking, waiting = asyncio.Semaphore(CHECKING), asyncio.Semaphore(WAITING)
    most = int(max_upload_mib * MIB)

    async def index(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        names = {f"look/{name}": f"/static/{name}.js" for name in html_page.MODULES}
        names["look/explorer"] = "/static/explorer.js"
        text = Template(html_page.static("page.html")).substitute(
            title="What does the network attend to?",
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
            text = html_page.static(name)
        elif name in OWN:
            text = files("nonlocalnet.explorer").joinpath("static", name).read_text("utf-8")
        else:
            raise HTTPException(404, "there is no such file")
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
        too_large = HTTPException(413, f"the video is larger than {max_upload_mib:g} MiB")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        if checking.locked():
            raise Full
        path = library.new_file()
        try:
            with uploads.slot() as slot, path.open("wb") as file:
                size = 0
                async for chunk in slot.read(request.stream()):
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    file.write(chunk)
            if not size:
                raise HTTPException(400, "the file is empty")
            name = request.query_params.get("name", "")
            async with checking:
                video = await _in_thread(library.add, path, name)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise HTTPException(507, f"the video cannot be stored: {error.strerror}") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return JSONResponse({"key": video.key, "name": video.name}, status_code=201)

    async def look(request: Request) -> Response:
        found = await _look(request)
        return JSONResponse(await _in_thread(html_page.metadata, found))

    async def part(request: Request) -> Response:
        found = await _look(request)
        name = request.path_params["name"]
        data = await _in_thread(html_page.array, found, name)
        if data is None:
            raise HTTPException(404, "there is no such part")
        return Response(data, media_type="application/octet-stream")

    async def _look(request: Request) -> Any:
        ask = request.query_params
        try:
            moment = float(ask.get("moment", "0.5"))
        except ValueError:
            moment = math.nan
        if not 0 <= moment <= 1:
            raise HTTPException(400, "moment must be a number from 0 to 1")
        if waiting.locked():
            raise HTTPException(503, "too many requests are waiting: try again in a moment")
        async with waiting:
            try:
                return await _in_thread(
                    library.look, ask.get("video", ""), ask.get("network", ""), moment
                )
            except MemoryError:
                raise HTTPException(507, "the clip needs too much memory") from None

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
            TooSlow: _say(lambda error: 408, lambda error: TOO_SLOW),
            Full: _say(lambda error: 503, lambda error: FULL),
            NotFound: _say(lambda error: 404, str),
            VideoError: _say(lambda error: 422, str),
            ClientDisconnect: _say(lambda error: 400, lambda error: "the client disconnected"),
            HTTPException: _say(lambda error: error.status_code, _http),
            Exception: _unexpected,
        },
        lifespan=_closing(library),
    )


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a thread, which is abandoned at shutdown, so that Ctrl-C does not wait for it."""
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
    """Return whether a host name is this server's, and not one set up by a web page."""
    if name in own or not _is_wildcard(host):
        return name in own
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name) is not None
    return bool(name) and ("." not in name or name.endswith(".local"))


def _is_foreign(request: Request) -> bool:
    """Return whether the request comes from another web page, according to the browser."""
    # older browsers say no more than where a picture is: Referer; our own page sends none
    origin = request.headers.get("origin", request.headers.get("referer"))
    host = None if origin is None else origin.partition("://")[2].partition("/")[0]
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") or (
        host is not None and host != request.headers.get("host")
    )


def _say(
    status: Callable[[Any], int], reason: Callable[[Any], str]
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": reason(error)}, status_code=status(error))

    return answer


def _http(error: HTTPException) -> str:
    """Return the message of an error, in a sentence if it is Starlette's own."""
    sentences = {
        "Not Found": "there is no such page",
        "Method Not Allowed": "this page does not support that method",
    }
    return sentences.get(error.detail, error.detail)


async def _unexpected(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return JSONResponse(
        {"error": "an unexpected error in the server: see its terminal"}, status_code=500
    )


async def _guard(
    is_own: Callable[[str], bool], request: Request, call_next: RequestResponseEndpoint
) -> Response:
    if not is_own(_hostname(request.headers.get("host", ""))):
        reason = "this is not the name of this server: use the address that it printed"
        response: Response = JSONResponse({"error": reason}, status_code=421)
    elif request.url.path != "/" and _is_foreign(request):  # a link to the page is harmless
        response = JSONResponse({"error": "other web pages may not use this"}, status_code=403)
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
