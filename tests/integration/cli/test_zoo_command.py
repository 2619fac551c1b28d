import functools
import http.server
import json
import threading

import pytest

from nonlocalnet.checkpoints.zoo import list_releases
from nonlocalnet.cli import main
from nonlocalnet.runtime.log import console

NAME = "I3D_NLN_8x8_R50"
FILE = f"{NAME}.pkl"


@pytest.fixture
def stick(tmp_path):
    """A folder that has a release's file."""
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / FILE).write_bytes(b"weights" * 400_000)
    return folder


def test_it_lists_all_with_names_unfolded(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 250)
    assert main(["zoo"]) == 0
    said = capsys.readouterr().out
    assert all(f"│ {row.name} " in said for row in list_releases())
    for word in (
        "top-1",
        "top-5",
        "none was measured here",
        "license",
        "CC-BY-NC 4.0",
        "PySlowFast",
    ):
        assert word in said


def test_it_lists_what_matches(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 160)
    assert main(["zoo", "i3d_nonlocal_8x8*"]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "i3d_nonlocal" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[0] == "i3d_nonlocal_8x8_IN_pretrain_400k"
    assert cells[2:] == ["i3d_r50_nl5", "8x8", "top-1 74.7, top-5 91.6", "CC-BY-NC 4.0"]
    assert "baseline" not in said


def test_json_has_all(capsys):
    assert main(["zoo", NAME, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["url"].endswith(f"/{FILE}")
    assert row["options"] == {"stem_padding": 1}
    assert "MODEL_ZOO.md" in row["figure"]
    assert row["blocks"] == 5
    assert row["measured_here"] is False


def test_get_prints_the_path_alone(stick, tmp_path, capsys):
    words = ["zoo", "get", NAME, "--mirror", str(stick), "--folder", str(tmp_path / "[b] cache")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said == f"{tmp_path / '[b] cache' / FILE}\n"  # no markup, no folding
    assert (tmp_path / "[b] cache" / FILE).read_bytes() == (stick / FILE).read_bytes()


def test_get_from_a_server(stick, tmp_path, capsys):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(stick))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        words = ["--mirror", f"http://127.0.0.1:{server.server_port}"]
        code = main(["zoo", "get", NAME, *words, "--folder", str(tmp_path / "cache")])
        server.shutdown()
    assert code == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache' / FILE}\n"
    assert (tmp_path / "cache" / FILE).read_bytes() == (stick / FILE).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnext*"], "no release matches 'resnext*'"),
        (["get"], "zoo get NAME; got zoo get"),
        (["fetch", NAME], f"zoo get NAME; got zoo fetch {NAME}"),
        (["get", NAME, "x"], "zoo get NAME; got zoo get"),
        (["get", "I3D_NLN_8x8"], f"did you mean '{NAME}'?"),
        (["get", NAME, "--mirror", "nowhere"], "there is no file nowhere to take"),
        ([NAME, "--mirror", "nowhere"], "--mirror and --folder need zoo get NAME"),
    ],
)
def test_errors_of_use_are_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NONLOCALNET_CACHE", str(tmp_path / "cache"))
    assert main(["zoo", *words]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("nonlocalnet: ")
    assert streams.err.count("\n") == 1
    assert said in streams.err
    assert not (tmp_path / "cache").exists()
