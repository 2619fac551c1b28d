"""HTTP connections with timeouts for headers and for answers that are not read; fast shutdown.

uvicorn's own limits cover less: it closes a connection that is idle after an answer, limits the
size of headers, and rejects new connections once there are too many, however idle the others are.
"""

from __future__ import annotations

import asyncio
import json

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 200  # beyond this, an idle connection is dropped for a new one
HEADERS = 10.0  # seconds for the headers of a request
LINGER, UNREAD = 1.0, 1 << 20  # seconds and bytes for which a body is read after its answer
STALL, SLOWEST = 30.0, 1 << 10  # bytes per second at which answers must be read, every so often
SHUTDOWN = 1  # seconds that running requests have when the server stops


def make_server(app: Starlette) -> uvicorn.Server:
    """Create the server of an application; `run(sockets=[listener])` serves until it is stopped.

    Args:
        app: from `make_app`.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="critical",  # the application prints unexpected errors itself
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN,
        )
    )


class Connection(H11Protocol):
    """A connection that is closed if its client stalls.

    - The headers of a request must arrive in time, counted from the start of the connection or the
      end of the last answer.
    - If there are too many connections, the one that has been idle longest is dropped: a client
      with a request is served, however many idle ones there are.
    - If an answer is complete before the request's body is, the connection ends. The rest of the
      body is read and discarded for a moment, because a reset could destroy the answer on its way.
    - The client must read the answer at a minimum rate.
    """

    _headers_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _unread: int | None = None  # bytes of a body that may still arrive after its answer
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._watch_headers()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        if self._unread is not None:
            self._unread -= len(data)
            if self._unread < 0:
                self.transport.close()
            return
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._headers_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since = self.loop.time()
        self._watch_answer()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._unread = UNREAD
            self.transport.write_eof()
            self._headers_timer = self.loop.call_later(LINGER, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request with JSON, like all other errors."""
        body = json.dumps({"error": "this is not a valid HTTP request"}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(
            f"HTTP/1.1 400 Bad Request\r\n{head}connection: close\r\n\r\n".encode() + body
        )
        self.transport.close()

    def _watch_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
        elif self.conn.their_state is h11.IDLE and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(HEADERS, self._close_idle)

    def _close_idle(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()

    def _make_room(self) -> None:
        present = [one for one in self.connections if isinstance(one, Connection)]
        if len(present) < CONNECTIONS:
            return
        resting = [
            one
            for one in present
            if one is not self and (one.cycle is None or one.cycle.response_complete)
        ]
        if resting:  # first those whose answer has been sent
            first = min(
                resting,
                key=lambda one: (one.transport.get_write_buffer_size() > 0, one._idle_since),
            )
            self.connections.discard(first)
            first.transport.abort()

    def _watch_answer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        rest = self.transport.get_write_buffer_size()
        self._answer_timer = self.loop.call_later(STALL, self._check_answer, rest) if rest else None

    def _check_answer(self, before: int) -> None:
        rest = self.transport.get_write_buffer_size()
        if rest and before - rest < STALL * SLOWEST:
            self.transport.abort()
        else:
            self._watch_answer()
