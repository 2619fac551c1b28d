"""Read files at addresses (https://, s3://, gs://, ...) through fsspec, again where that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TRIES = 5
PAUSE = 1.0  # seconds before the second try; it doubles with each
SILENCE = 60.0  # seconds that an HTTP server may send nothing
TEMPORARY = (408, 425, 429)  # the codes from 400 to 499 that may change


def read_file(address: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: there is none.
        RuntimeError: it cannot be read, after `TRIES` tries if that may help.
    """
    system, path = _open_system(address)
    return _repeat(address, lambda: system.cat_file(path))


def read_range(address: str, start: int, stop: int, size: int) -> bytes:
    """Read the bytes from `start` to `stop` of a file of `size` bytes.

    Raises:
        FileNotFoundError, RuntimeError: as `read_file`; a server answers with the whole file.
    """
    system, path = _open_system(address)

    def read() -> bytes:
        if not _is_http(address):
            return system.cat_file(path, start=start, end=stop)
        # `cat_file` would load all of a file from a server that ignores ranges
        with system.open(path, block_size=stop - start, cache_type="none", size=size) as file:
            file.seek(start)
            return file.read(stop - start)

    return _repeat(address, read, stop - start)


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _open_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, of this process, and the path in it."""
    import fsspec
    import fsspec.asyn
    from fsspec.core import url_to_fs

    if not hasattr(fsspec.asyn, "reset_after_fork"):  # it would wait for ever in a decoding process
        raise RuntimeError(
            f"fsspec {fsspec.__version__} is too old for several processes: "
            "pip install 'fsspec>=2025.7'"
        )
    options: dict[str, Any] = {}
    if _is_http(address):
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        options["client_kwargs"] = {"timeout": limit}
    try:
        return url_to_fs(address, **options)
    except (ImportError, ValueError) as error:  # such as "Install s3fs to access S3"
        raise RuntimeError(f"{address} cannot be opened: {error}") from None


def _repeat(address: str, read: Callable[[], bytes], length: int | None = None) -> bytes:
    """Try to read until as many bytes have come as there must be."""
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            data = read()
        except Exception as error:  # every file system has its own
            if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == 404:
                raise FileNotFoundError(f"there is no file {address}") from None
            reason = _permanent(error)
            if reason:
                raise RuntimeError(f"{address} cannot be read: {reason}") from None
            reason = " ".join(str(error).split()) or type(error).__name__
        else:
            if length is None or len(data) == length:
                return data
            reason = f"{len(data):,} of {length:,} bytes came"
    raise RuntimeError(f"{address} could not be read in {TRIES} tries, the last time: {reason}")


def _permanent(error: Exception) -> str:
    """Say why another try would fail as well; "" if it may not."""
    if isinstance(error, PermissionError):
        return str(error) or "permission denied"
    if "range requests" in str(error):
        return "its server ignores ranges of bytes, which packed data need; use another server"
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in TEMPORARY:
        return f"its server answers {status} {getattr(error, 'message', '')}".rstrip()
    return ""
