"""Connections that nobody can hold: by silence, by slowness, by a body or an answer without end."""

from __future__ import annotations

import asyncio
import json

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 200  # beyond these, one that waits for nothing makes room
HEAD = 10.0  # seconds for the head of a request
LINGER, UNREAD = 1.0, 1 << 20  # seconds and bytes of a body that are still taken after its answer
STALL, SLOWEST = 30.0, 1 << 10  # every so many seconds an answer moves on by so many bytes a second
ENDING = 1  # seconds that requests have at the end, before they are left


def make_server(app: Starlette) -> uvicorn.Server:
    """Make the server of `make_app`; `run(sockets=[listener])` serves until SIGINT or SIGTERM.

    uvicorn closes a connection that is silent after an answer (timeout_keep_alive), bounds heads
    (h11's 16 KiB) and what runs at once (limit_concurrency); `Connection` adds what it lacks.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="critical",  # the application writes what no one foresaw
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=ENDING,
        )
    )


class Connection(H11Protocol):
    """One that ends where its other side does not go on.

    - A head must be here in time, from its connection's or the last answer's end on.
    - Where there are too many connections, the one that has longest had no request at work is
      dropped: whoever comes with a request is served, however many are silent.
    - An answer ends the connection if the request's body has not: what still comes is thrown away
      for a moment, or a reset would take the answer from who is still sending.
    - An answer must be taken, at a low rate at least.
    """

    _late: asyncio.TimerHandle | None = None  # for a head
    _taking: asyncio.TimerHandle | None = None  # of an answer
    _unread: int | None = None  # bytes of a body that may still come after its answer
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        if self._unread is not None:
            self._unread -= len(data)
            if self._unread < 0:
                self.transport.close()
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._taking):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = self.loop.time()
        self._watch_answer()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._unread = UNREAD
            self.transport.write_eof()
            self._late = self.loop.call_later(LINGER, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the form of all other errors."""
        body = json.dumps({"error": "this is not a valid HTTP request"}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(
            f"HTTP/1.1 400 Bad Request\r\n{head}connection: close\r\n\r\n".encode() + body
        )
        self.transport.close()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE and self._late is not None:
            self._late.cancel()
            self._late = None
        elif self.conn.their_state is h11.IDLE and self._late is None:
            self._late = self.loop.call_later(HEAD, self._close)

    def _close(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()

    def _make_room(self) -> None:
        here = [one for one in self.connections if isinstance(one, Connection)]
        if len(here) < CONNECTIONS:
            return
        resting = [
            one
            for one in here
            if one is not self and (one.cycle is None or one.cycle.response_complete)
        ]
        if resting:  # those whose answer is still on its way last
            first = min(
                resting, key=lambda one: (one.transport.get_write_buffer_size() > 0, one._since)
            )
            self.connections.discard(first)
            first.transport.abort()

    def _watch_answer(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
        rest = self.transport.get_write_buffer_size()
        self._taking = self.loop.call_later(STALL, self._go_on, rest) if rest else None

    def _go_on(self, before: int) -> None:
        rest = self.transport.get_write_buffer_size()
        if rest and before - rest < STALL * SLOWEST:
            self.transport.abort()
        else:
            self._watch_answer()
