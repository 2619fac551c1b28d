"""A real browser, where one is installed (Debian: chromium, chromium-driver)."""

import shutil
import socket
import threading
from pathlib import Path

import pytest
from pages import make_network

from nonlocalnet.data.synthetic import write_same_color

SCREENSHOTS = Path(__file__).parents[3] / "screenshots"  # kept, and not in git
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("needs chromium and chromedriver on PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, "--window-size=1440,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    driver.downloads = downloads
    SCREENSHOTS.mkdir(exist_ok=True)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, request):
    """A browser of desktop size, whose console must have stayed clean at the end."""
    chromium.set_window_size(1440, 900)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.get_log("browser")
    chromium.allowed_errors = ()
    yield chromium
    chromium.save_screenshot(SCREENSHOTS / f"{request.node.name}.png")
    errors = [line["message"] for line in chromium.get_log("browser") if line["level"] != "INFO"]
    chromium.get("about:blank")
    assert [text for text in errors if not any(a in text for a in chromium.allowed_errors)] == []


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_same_color(folder, 4, seed=0)
    return sorted(folder.rglob("*.mp4"))


@pytest.fixture(scope="session")
def networks():
    return {"first": make_network(0), "second": make_network(1, pairwise="dot_product", scale=None)}


@pytest.fixture(scope="session")
def site(networks, videos, tmp_path_factory):
    """The explorer at work: its address."""
    from nonlocalnet.explorer.connection import make_server
    from nonlocalnet.explorer.library import Library
    from nonlocalnet.explorer.server import make_app

    library = Library(networks, videos, tmp_path_factory.mktemp("store"))
    server = make_server(make_app(library, max_upload_mib=1))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)
    library.close()
