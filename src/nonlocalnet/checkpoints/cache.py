"""A folder of downloaded files: gone on with when cut, whole or not there, and known by sha256."""

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

LIMIT = 4 << 30  # bytes; what is released has a tenth of it
BLOCK = 1 << 16
TIMEOUT = 30.0  # seconds without a byte
HASHES = "hashes.json"
MIRROR = (
    "`nonlocalnet zoo get NAME --mirror PLACE` takes it from a local file, a folder that has it, "
    "or another base URL"
)
AGAIN = "the same command goes on from there"
HANDLERS = (  # http and https alone: no redirect leads elsewhere
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
    """Give a file's sha256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure(path: Path, source: str | Path, sha256: str | None, report: Report) -> None:
    """Have a file at `path`, from a URL or a local file if it is not there, and check its sha256.

    Args:
        path: the file, in a folder that keeps the hashes of all its files.
        source: where it comes from.
        sha256: as many of its digits as are known beforehand; None is none.
        report: called with the bytes that are there and all, or None where that is unknown.

    Raises:
        ValueError: another sha256 than the known or the recorded one; too many bytes.
        OSError: the server or the folder refuses, or the connection ends early.
    """
    folder = path.parent
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                if not path.is_file():  # nobody got it while we waited
                    _fetch(path, source, sha256, report)
                    return
        digest = _check(path, path.name, sha256, f"{path} has changed, delete it to get it again")
        if path.name not in _hashes(folder):
            with contextlib.suppress(OSError), _alone(folder):  # unless it may only be read
                _record(path, digest)
    except OSError as error:
        raise _in_words(error, folder, source) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Write to a folder alone: wait until no other process does.

    The system drops its lock when a process ends, however it ends. Where it has none (Windows, some
    networks), a file stands for the lock, and is not waited for.
    """
    with (folder / ".lock").open("a") as file, contextlib.ExitStack() as then:
        if not _lock(file):
            held = folder / ".lock.held"
            try:
                held.touch(exist_ok=False)
            except FileExistsError:
                wait = f"wait for it, or delete {held} if none does"
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
        fresh = copy  # beside what a cut download left
        shutil.copyfile(source, fresh)
        report(fresh.stat().st_size, fresh.stat().st_size)
    else:
        fresh = part
        _download(source, part, note, report)
    _hashes(path.parent)  # if damaged, that is no fault of the file
    try:
        digest = _check(fresh, path.name, sha256, f"{source} gave another file, it is not kept")
    except ValueError:
        fresh.unlink()
        raise
    _record(path, digest)
    fresh.replace(path)
    for left in (part, note):
        left.unlink(missing_ok=True)


def _download(url: str, part: Path, note: Path, report: Report) -> None:
    """Write what a URL has to `part`; `note` says which version and size its bytes are of."""
    kept, seen = _kept(part, note)
    if kept and kept == seen.get("size"):
        return  # it is all there
    for start in (kept, 0):
        response = _open(url, start)
        first, whole = _extent(response)
        if response.status == 200:
            start = 0
            break
        if response.status == 206 and start and (first, whole) == (start, seen):
            break
        response.close()  # of another version: all of it again
    else:
        raise OSError(f"{url}: the server answers {response.status}, which is no file; {MIRROR}")
    size, done = whole["size"], start
    most = LIMIT if size is None else size
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError(f"{url}: the server sends a web page, not the file; {MIRROR}")
        if most > LIMIT:
            raise ValueError(f"{url}: {size:,} bytes are more than any release has, not taken")
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
        raise ValueError(f"{url}: there came more than {most:,} bytes, not kept; try again")
    if done < (size or 1):
        raise ConnectionError(f"{url} ended after {done:,} of {size or 1:,} bytes; {AGAIN}")


def _kept(part: Path, note: Path) -> tuple[int, dict[str, Any]]:
    """How many bytes a cut download left, and of what."""
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
        if error.code == 416 and start:  # it has become shorter
            return _open(url, 0)
        said = f"the server answers {error.code} {error.reason}"
        raise OSError(f"{url}: {said}; {MIRROR}") from None
    except (OSError, HTTPException) as error:
        host = urlsplit(url).netloc
        raise ConnectionError(f"cannot reach {host}: {_reason(error)}; {MIRROR}") from None


def _extent(response: HTTPResponse) -> tuple[int | None, dict[str, Any]]:
    """The first byte of an answer, and the version and the size of the whole."""
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
    """Give a file's sha256, if it is the known and the recorded one of that name."""
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
        raise ValueError(f"{folder / HASHES} is damaged: delete it, and hashes are recorded anew")
    return hashes


def _record(path: Path, digest: str) -> None:
    hashes = _hashes(path.parent) | {path.name: digest}
    fresh = path.with_name(f"{HASHES}.part")
    fresh.write_text(json.dumps(hashes, indent=1) + "\n")
    fresh.replace(path.with_name(HASHES))


def _in_words(error: OSError, folder: Path, source: str | Path) -> OSError:
    """The system's errors about the folder as sentences; ours are sentences already."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(f"no space is left in {folder}; make room, and {AGAIN}")
    if error.errno is None or error.filename == str(source):
        return error
    other = "choose another folder, as with $NONLOCALNET_CACHE"
    return type(error)(f"cannot use {folder}: {error.strerror}; {other}")
