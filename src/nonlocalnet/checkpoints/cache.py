"""Download cache: resumable, atomic, verified by SHA-256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import urllib.request as web
from collections.abc import Callable, Generator, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

LIMIT = 4 << 30  # bytes; ten times the largest release
BLOCK = 1 << 16
TIMEOUT = 30.0  # seconds without a byte
HASHES = "hashes.json"
MIRROR = (
    "`nonlocalnet zoo get NAME --mirror PLACE` takes it from a local file, from a folder that "
    "contains it, or from another base URL"
)
AGAIN = "run the same command to continue from there"
HANDLERS = (  # http and https only: no redirect leads elsewhere
    web.ProxyHandler,
    web.HTTPHandler,
    web.HTTPSHandler,
    web.HTTPRedirectHandler,
    web.HTTPDefaultErrorHandler,
    web.HTTPErrorProcessor,
    web.UnknownHandler,
)

Report = Callable[[int, int | None], None]


def sha256_of(path: str | os.PathLike) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure(path: Path, source: str | Path, sha256: str | None, report: Report) -> None:
    """Make sure that a file is at `path`, and check its SHA-256; download or copy it if necessary.

    Args:
        path: the file; its folder stores the hashes of all files in it.
        source: a URL or a local file to get it from.
        sha256: the first digits of the hash, as many as are known; None if none are.
        report: called with the bytes so far and the size, or None if the size is unknown.

    Raises:
        ValueError: the SHA-256 is not the known or the recorded one; there are too many bytes.
        OSError: the server or the folder cannot be used, or the connection ends early.
    """
    folder = path.parent
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                if not path.is_file():  # no other process downloaded it in the meantime
                    _fetch(path, source, sha256, report)
                    return
        digest = _check(path, path.name, sha256, f"{path} has changed; delete it to get it again")
        if path.name not in _hashes(folder):
            with contextlib.suppress(OSError), _alone(folder):  # unless the folder is read-only
                _record(path, digest)
    except OSError as error:
        raise _in_words(error, folder, source) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Lock a folder: wait until no other process writes to it.

    The system releases its lock when a process ends, for any reason. Where there is no such lock
    (Windows, some network drives), a file is the lock, and a second process gets an error.
    """
    with (folder / ".lock").open("a") as file, contextlib.ExitStack() as then:
        if not _lock(file):
            held = folder / ".lock.held"
            try:
                held.touch(exist_ok=False)
            except FileExistsError:
                wait = f"wait until it ends, or delete {held} if no process is running"
                raise OSError(f"another process writes to {folder}; {wait}") from None
            then.callback(held.unlink)
        yield


def _lock(file: IO[str]) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _fetch(path: Path, source: str | Path, sha256: str | None, report: Report) -> None:
    part, note, copy = (path.with_name(path.name + end) for end in (".part", ".part.json", ".copy"))
    if isinstance(source, Path):
        fresh = copy  # beside an interrupted download
        shutil.copyfile(source, fresh)
        report(fresh.stat().st_size, fresh.stat().st_size)
    else:
        fresh = part
        _download(source, part, note, report)
    _hashes(path.parent)  # raises if damaged, before the file is blamed
    try:
        digest = _check(fresh, path.name, sha256, f"{source} is another file, which is not kept")
    except ValueError:
        fresh.unlink()
        raise
    _record(path, digest)
    fresh.replace(path)
    for left in (part, note):
        left.unlink(missing_ok=True)


def _download(url: str, part: Path, note: Path, report: Report) -> None:
    """Download a URL to `part`; `note` stores the version and the size of the whole."""
    kept, seen = _kept(part, note)
    if kept and kept == seen.get("size"):
        return  # complete
    for start in (kept, 0):
        response = _open(url, start)
        first, whole = _extent(response)
        if response.status == 200:
            start = 0
            break
        if response.status == 206 and start and (first, whole) == (start, seen):
            break
        response.close()  # another version: start again
    else:
        raise OSError(f"{url}: the server answers {response.status} instead of a file; {MIRROR}")
    size, done = whole["size"], start
    most = LIMIT if size is None else size
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError(f"{url}: the server sends a web page instead of the file; {MIRROR}")
        if most > LIMIT:
            raise ValueError(
                f"{url}: {size:,} bytes are more than any release has; nothing was downloaded"
            )
        with part.open("ab" if start else "wb") as file:
            if not start:
                note.write_text(json.dumps(whole))
            for block in _blocks(response, url):
                done += len(block)
                if done > most:
                    break
                file.write(block)
                report(done, size)
    if done > most:
        part.unlink()
        raise ValueError(
            f"{url}: the server sent more than {most:,} bytes, which are not kept; try again"
        )
    if done < (size or 1):
        raise ConnectionError(f"{url} ended after {done:,} of {size or 1:,} bytes; {AGAIN}")


def _kept(part: Path, note: Path) -> tuple[int, dict[str, Any]]:
    """Return how many bytes an interrupted download left, and of which version."""
    try:
        return part.stat().st_size, dict(json.loads(note.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return 0, {}


def _open(url: str, start: int) -> HTTPResponse:
    opener = web.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    headers = {"User-Agent": "nonlocalnet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return opener.open(web.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:  # the file has become shorter
            return _open(url, 0)
        said = f"the server answers {error.code} {error.reason}"
        raise OSError(f"{url}: {said}; {MIRROR}") from None
    except (OSError, HTTPException) as error:
        host = urlsplit(url).netloc
        raise ConnectionError(f"cannot reach {host}: {_reason(error)}; {MIRROR}") from None


def _extent(response: HTTPResponse) -> tuple[int | None, dict[str, Any]]:
    """Return the first byte of a response, and version and size of the whole."""
    first, size = 0, response.headers["Content-Length"]
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers["Content-Range"] or "")
        first, size = (int(span[1]), span[2]) if span else (None, None)
    etag = response.headers["ETag"] or response.headers["Last-Modified"]
    return first, {"etag": etag, "size": int(size) if size and size.isdecimal() else None}


def _blocks(response: HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        while block := response.read(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} broke off: {_reason(error)}; {AGAIN}") from None


def _reason(error: Exception) -> object:
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or inner


def _check(path: Path, name: str, sha256: str | None, problem: str) -> str:
    """Return the SHA-256 of a file, after comparing it with the known and the recorded one."""
    digest = sha256_of(path)
    place = path.parent / HASHES
    for known, whose in (
        (sha256, "its release states"),
        (_hashes(path.parent).get(name), f"{place} has; to trust this one, delete that line"),
    ):
        if known and not digest.startswith(known):
            raise ValueError(f"{problem}: its sha256 is {digest}, not the {known} that {whose}")
    return digest


def _hashes(folder: Path) -> dict[str, str]:
    try:
        hashes = json.loads((folder / HASHES).read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        hashes = None
    if not isinstance(hashes, dict) or not all(isinstance(v, str) for v in hashes.values()):
        raise ValueError(f"{folder / HASHES} is damaged: delete it, then hashes are recorded again")
    return hashes


def _record(path: Path, digest: str) -> None:
    hashes = _hashes(path.parent) | {path.name: digest}
    fresh = path.with_name(f"{HASHES}.part")
    fresh.write_text(json.dumps(hashes, indent=1) + "\n")
    fresh.replace(path.with_name(HASHES))


def _in_words(error: OSError, folder: Path, source: str | Path) -> OSError:
    """Turn system errors about the folder into sentences; our own already are."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(f"no space is left in {folder}; make room, and {AGAIN}")
    if error.errno is None or error.filename == str(source):
        return error
    other = "choose another folder with $NONLOCALNET_CACHE"
    return type(error)(f"cannot use {folder}: {error.strerror}; {other}")
