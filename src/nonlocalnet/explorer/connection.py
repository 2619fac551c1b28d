"""Connections that cannot be held open by saying nothing, and an end that waits for nobody."""

from __future__ import annotations

import asyncio
import json

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 200
HEAD = 15.0  # seconds for the head of a request
ENDING = 1  # seconds that requests have at the end, before they are left


def make_server(app: Starlette) -> uvicorn.Server:
    """Make the server of `make_app`; `run(sockets=[listener])` serves until SIGINT or SIGTERM."""
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
    """One whose requests begin in time: uvicorn waits for a head without end."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE and self._late is not None:
            self._late.cancel()
            self._late = None
        elif self.conn.their_state is h11.IDLE and self._late is None:
            self._late = self.loop.call_later(HEAD, self._close)

    def _close(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the form of all other errors."""
        body = json.dumps({"error": "this is not a valid HTTP request"}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(
            f"HTTP/1.1 400 Bad Request\r\n{head}connection: close\r\n\r\n".encode() + body
        )
        self.transport.close()
