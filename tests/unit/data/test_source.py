"""What names a live video, without its secrets."""

import os
import sys

import pytest

from nonlocalnet.data.video.source import SCHEMES, Source


@pytest.mark.parametrize("scheme", SCHEMES)
def test_addresses(scheme):
    assert Source.parse(f"{scheme}://host:1/live") == Source("address", f"{scheme}://host:1/live")


def test_a_file_and_standard_input(tmp_path):
    file = tmp_path / "a:b.ts"
    file.touch()
    assert Source.parse(str(file)).kind == "file"
    assert Source.parse("-") == Source("pipe", "-")


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://me:secret@host/live",
        "rtsp://secret@host:554/live",
        "http://me:se/secret@host/a@b",
        "http://me:x@secret@host/a",
        "https://host/live.m3u8?token=secret",
        "https://me:secret@host/live?user=secret@home",
        "RTSP://me:secret@[::1]:554/live",
    ],
)
def test_secrets_are_not_in_the_name(address):
    source = Source.parse(address)
    assert source.place == address
    assert "secret" not in source.name
    assert "***" in source.name
    assert source.name.lower().startswith(address.partition("://")[0].lower())


def test_an_address_without_secrets_keeps_its_name():
    assert Source.parse("http://host:80/a/b.ts").name == "http://host:80/a/b.ts"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://me:secret@host/a", "scheme must be one of 'rtsp', .*; got 'ftp'"),
        ("file:///etc/passwd", "scheme must be one of"),
        ("no/such.ts", "no such file"),
        (".", "is a directory"),
    ],
)
def test_errors(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        Source.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are Linux's")
def test_a_missing_camera_says_what_is_there():
    with pytest.raises(ValueError, match=r"video987: no such camera; this machine has .*/dev/vid"):
        Source.parse("/dev/video987")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_a_file_that_may_not_be_read(tmp_path):
    file = tmp_path / "a.ts"
    file.touch(mode=0)
    with pytest.raises(ValueError, match="no permission"):
        Source.parse(str(file))
