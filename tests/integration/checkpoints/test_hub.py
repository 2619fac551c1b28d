"""The Hub's mixin: to a folder and back, to a server and back (both local)."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.hub import FILE, HubNetwork
from nonlocalnet.checkpoints.metadata import WeightsInfo


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=3, clip="4x2", crop=32).eval()
    model.info = WeightsInfo(config=model.config, classes=["a", "b", "c"], short_side=36)
    return model


@pytest.fixture
def folder(model, tmp_path) -> Path:
    HubNetwork.of(model).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_to_a_folder_and_back(model, folder):
    again = HubNetwork.from_pretrained(folder)
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(again(x), model(x))
    assert again.info == model.info
    assert not again.training
    assert json.loads((folder / "config.json").read_text())["nonlocalnet"]["classes"] == [*"abc"]
    card = (folder / "README.md").read_text()
    for word in ("library_name: nonlocalnet", "video-classification", "HubNetwork.from_pretrained"):
        assert word in card


def test_the_card_says_what_the_file_knows(model, tmp_path):
    scores = {"top-1": 74.9, "source": "table 2"}
    model.info.facts = {"origin": "Caffe2", "license": "CC-BY-NC-4.0", "reported": scores}
    model.info.classes = ["a|b", "<script>", "{{ c }}"]
    HubNetwork.of(model).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for line in (
        "| network | c2d\\_tiny\\_nl2 |",
        "| clip | 4x2 |",
        "| license | CC-BY-NC-4.0 |",
        "| reported | top-1 74.9, source table 2 |",
        r"a\|b, \<script\>, \{\{ c \}\}",
    ):
        assert line in card, line


def test_the_same_network_not_a_copy(model):
    hub = HubNetwork.of(model)
    assert hub is model
    assert isinstance(hub, nl.networks.VideoResNet)


def test_a_network_of_two_pathways_stays_one(tmp_path):
    narrow = {"widths": (8, 8, 8, 8), "conv1_channels": 8, "num_classes": 3}
    model = nl.create_model("slowfast_8x8_r50", clip="8x2", crop=32, **narrow).eval()
    x = torch.randn(1, 3, 8, 32, 32)
    before = model(x)
    HubNetwork.of(HubNetwork.of(model)).save_pretrained(tmp_path)
    assert torch.equal(model(x), before)
    again = HubNetwork.from_pretrained(tmp_path)
    assert torch.equal(again(x), before)
    assert type(again).__name__ == "HubNetwork"


def test_a_network_without_description_takes_its_config(tmp_path):
    model = nl.create_model("c2d_tiny", num_classes=3, clip="4x2", crop=32)
    HubNetwork.of(model).save_pretrained(tmp_path)
    assert HubNetwork.from_pretrained(tmp_path).config == model.config


def test_a_pickle_in_a_repository_is_not_read(folder):
    (folder / FILE).unlink()
    torch.save({"state_dict": {}}, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        HubNetwork.from_pretrained(folder)


def test_push_sends_what_save_writes(model, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, token=None): ...

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **options):
            sent.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()}, **options)
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert HubNetwork.of(model).push_to_hub("me/mine") == "url"
    assert sent["repo_id"] == "me/mine"
    assert {FILE, "config.json", "README.md"} <= set(sent)


def test_from_a_server(model, folder, tmp_path):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            path = folder / self.path.rpartition("/")[2]
            data = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_HEAD(self):
            self.do_GET(body=False)

        def log_message(self, *_): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    torch.manual_seed(1)
    x = torch.randn(1, 3, 4, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    code = f"""
        import torch
        from nonlocalnet.checkpoints.hub import HubNetwork
        model = HubNetwork.from_pretrained("me/mine", cache_dir={str(tmp_path / "cache")!r})
        torch.save(model(torch.load({str(tmp_path / "x.pt")!r})), {str(tmp_path / "y.pt")!r})
    """
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    try:
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment, timeout=120
        )
    finally:
        server.shutdown()
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), model(x))
