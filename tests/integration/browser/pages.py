"""What the tests do with a page: open, wait, point, press."""

import time

import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo


def make_network(seed, **options):
    """A network that prefers some places, as a trained one does."""
    torch.manual_seed(seed)
    options = {"num_classes": 2, "clip": "8x1", "crop": 32} | options
    network = nl.create_model("c2d_tiny_nl2", **options).eval()
    for block in (network.res3.non_local0, network.res3.non_local1):
        for conv in (block.theta, block.phi):
            conv.weight.data.normal_(std=0.5)
    network.info = WeightsInfo(network.config, ["different", "same"], short_side=32)
    return network


def wait_until(condition, what, seconds=60):
    """Wait for a condition of the page."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def open_page(browser, found, tmp_path):
    path = tmp_path / "look.html"
    found.save(path)
    browser.get(path.as_uri())
    ready(browser)


def ready(browser):
    wait_until(lambda: browser.execute_script("return !!window.page?.first.block"), "the page")
    settle(browser)


def settle(browser):
    """Wait until what was asked for is drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )


def place_of(browser, frame):
    """Where a frame of the film stands on the screen: left, top, width, height."""
    return browser.execute_script(
        "const box = page.first.film.getBoundingClientRect();"
        "const p = page.first.places.places[arguments[0]];"
        "return [box.left + p.x, box.top + p.y, p.width, p.height]",
        frame,
    )


def hover(browser, frame, x, y):
    """Move the pointer to a point of a frame, in the clip's pixels (of 32 x 32)."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    left, top, width, height = place_of(browser, frame)
    at = round(left + width * x / 32), round(top + height * y / 32)
    pointer = ActionBuilder(browser, duration=0)
    pointer.pointer_action.move_to_location(*at)
    pointer.perform()
    settle(browser)
    return (at[0] - left) * 32 / width, (at[1] - top) * 32 / height


def press(browser, key):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(key).perform()
    settle(browser)
