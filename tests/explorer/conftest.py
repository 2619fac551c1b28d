import http.client
import json
import threading
import time

import numpy as np
import pytest
import torch
import uvicorn

import nonlocalnet as nl
from nonlocalnet.data.encode import write_video
from nonlocalnet.explorer.library import Library
from nonlocalnet.explorer.server import make_app
from nonlocalnet.models.weights import WeightsInfo

LIMIT = 1 << 18  # of uploads, bytes


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    network = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x1", crop=32).eval()
    network.info = WeightsInfo(network.config, ["a", "b"], short_side=32)
    return network


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "real.mp4"
    rng = np.random.default_rng(0)
    write_video(path, rng.integers(0, 256, (8, 32, 48, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="session")
def library(network, video, tmp_path_factory):
    library = Library({"net": network}, [video], tmp_path_factory.mktemp("store"))
    yield library
    library.close()


class Client:
    """Ask the server over a socket of its own each time."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, method="GET", body=None, headers=(), timeout=60):
        """-> status, content, headers; a body that is an iterator is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        chunked = body is not None and not isinstance(body, bytes)
        connection.request(method, path, body, dict(headers), encode_chunked=chunked)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if "json" in answer.headers.get("content-type", ""):
            data = json.loads(data)
        return answer.status, data, answer.headers

    def refused(self, *args, **options):
        """-> status and sentence of an answer that must be a refusal."""
        status, data, _ = self.ask(*args, **options)
        assert status >= 400, data
        return status, data["error"]


@pytest.fixture(scope="session")
def client(library):
    app = make_app(library, max_upload_mib=LIMIT / 2**20)
    config = uvicorn.Config(app, port=0, log_level="critical", limit_concurrency=200)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield Client(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join(10)
