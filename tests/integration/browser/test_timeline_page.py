"""The page of a timeline in a real browser."""

import io

import numpy as np
import pytest
from PIL import Image

from nonlocalnet.evaluation.timeline import Timeline
from nonlocalnet.evaluation.timeline_files import save


@pytest.fixture
def page(tmp_path):
    """100 moments of two classes, of which "late" is probable from the 50th on; 25 pictures."""
    late = np.repeat([0.1, 0.9], 50).astype(np.float32)
    pictures = {}
    for k in range(0, 100, 4):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (2 * k, 80, 80)).save(buffer, "JPEG")
        pictures[k] = buffer.getvalue()
    timeline = Timeline(
        path=tmp_path / "<i>long.mp4",
        classes=["early & odd", "<b>late"],
        duration=50.0,
        every=0.5,
        window=2.0,
        threshold=0.6,
        probabilities=np.stack([1 - late, late], axis=1),
        pictures=pictures,
        frames=8,
        own=2.0,
    )
    save(timeline, tmp_path / "t.html", look="nonlocalnet look long.mp4 --moment MOMENTs")
    return (tmp_path / "t.html").as_uri()


def test_a_click_shows_the_moment(browser, page):
    from selenium.webdriver import ActionChains, Keys

    browser.get(page)

    def text(selector):
        return browser.find_element("css selector", selector).text

    assert text("#name") == "<i>long.mp4"
    assert text("#time") == "0:12.5"  # the middle of the first segment
    assert [row.text for row in browser.find_elements("css selector", "#best tr")] == [
        *("early & odd 90.0%", "<b>late 10.0%")
    ]
    assert len(browser.find_elements("css selector", "#strip img")) == 14
    assert len(browser.find_elements("css selector", ".lane polyline")) == 2
    rows = [row.text for row in browser.find_elements("css selector", "#segments tr")][1:]
    assert rows == ["early & odd 0:00.0 0:24.7 0.900", "<b>late 0:24.7 0:50.0 0.900"]
    lanes = browser.find_element("id", "lanes")
    ActionChains(browser).move_to_element_with_offset(
        lanes, int(0.3 * lanes.size["width"]), 0
    ).click().perform()
    assert text("#time") == "0:40.0"
    assert text("#best tr") == "<b>late 90.0%"
    assert text("#look code") == "nonlocalnet look long.mp4 --moment 40.00s"
    picture = browser.find_element("id", "picture").get_attribute("src")
    lanes.send_keys(Keys.ARROW_RIGHT)
    assert text("#time") == "0:40.5"
    lanes.send_keys(Keys.PAGE_DOWN)
    assert text("#time") == "0:45.5"
    assert browser.find_element("id", "picture").get_attribute("src") != picture
    browser.find_elements("css selector", "#segments tr")[2].click()
    assert text("#time") == "0:37.5"
