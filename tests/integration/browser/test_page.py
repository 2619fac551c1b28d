"""The page of one clip in a real browser, opened as a file."""

import pytest
import torch
from pages import hover, make_network, open_page, place_of, press, ready, settle, wait_until
from PIL import Image

import nonlocalnet as nl
from nonlocalnet.inspection.html_page import render


@pytest.fixture
def found(networks, videos):
    return nl.look(networks["first"], videos[0], title="a clip")


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product", "concatenation"])
def test_the_row_under_the_pointer_is_that_of_the_library(browser, videos, tmp_path, pairwise):
    scale = "auto" if pairwise == "embedded_gaussian" else None
    found = nl.look(make_network(2, pairwise=pairwise, scale=scale), videos[0])
    open_page(browser, found, tmp_path)
    press(browser, "\ue00c")  # Esc: let go of the point that the page begins with
    for frame, x, y in ((0, 3, 5), (7, 30.5, 1), (4, 17, 16)):
        x, y = hover(browser, frame, x, y)
        expected = found.block.attention((frame + 0.5, y, x))
        query, weights = browser.execute_script(
            "return [page.first.query, [...page.first.weights]]"
        )
        assert tuple(query) == expected.query
        weights = torch.tensor(weights).view(expected.weights.shape)
        # float16 numbers: scores of a sum over d terms are off by 2^-11 |θ| |φ| at most
        theta, phi = found.block.in_order()
        bound = 2**-10 * float(theta.norm(dim=1).max() * phi.norm(dim=1).max())
        if pairwise == "embedded_gaussian":
            tolerance = bound * (found.block.scale or 1)
        else:
            tolerance = max(bound, 2**-10 * float(theta.abs().max() + phi.abs().max())) / len(phi)
        torch.testing.assert_close(weights, expected.weights, atol=tolerance, rtol=0)
        assert browser.execute_script("return page.took") < 100  # ms, drawing included


def test_a_click_holds_the_point_and_escape_lets_go(browser, found, tmp_path):
    open_page(browser, found, tmp_path)
    assert browser.execute_script("return page.state.pinned")
    before = browser.execute_script("return page.state.at")
    hover(browser, 1, 4, 4)
    assert browser.execute_script("return page.state.at") == before
    press(browser, "\ue00c")
    hover(browser, 1, 4, 4)
    after = browser.execute_script("return page.state.at")
    assert after[0] == pytest.approx(1.5 / 8)
    browser.execute_script(
        "page.first.film.dispatchEvent(new MouseEvent('click', {clientX: arguments[0],"
        "clientY: arguments[1]}))",
        *(place_of(browser, 5)[k] + 3 for k in (0, 1)),
    )
    assert browser.execute_script("return [page.state.pinned, page.state.at[0]]") == [True, 5.5 / 8]


def test_light_lies_on_the_heaviest_key(browser, found, tmp_path):
    browser.allowed_errors = ("Canvas2D",)  # a hint on speed, for reading pixels
    open_page(browser, found, tmp_path)
    browser.execute_script("page.state.arrows = false; page.redraw()")
    settle(browser)
    row = found.attention
    light = []
    for flat in (row.weights.argmax(), row.weights.argmin()):
        t, y, x = (int(i) for i in torch.unravel_index(flat, row.weights.shape))
        frame = min(int(row.keys[0].start + t * row.keys[0].stride), 7)
        px, py = (row.keys[k].start + i * row.keys[k].stride + 6 for k, i in ((2, x), (1, y)))
        light.append(
            browser.execute_script(
                "const [frame, x, y] = arguments; const {film, places} = page.first;"
                "const p = places.places[frame], r = film.width / film.clientWidth;"
                "return [...film.getContext('2d').getImageData("
                "r * (p.x + p.width * x / 32), r * (p.y + p.height * y / 32), 1, 1).data]",
                *(frame, px, py),
            )
        )
    bright, dark = light
    assert bright[0] > dark[0] + 60
    assert bright[0] > bright[2] + 40  # amber


def test_keys_move_the_point_the_layer_and_the_clock(browser, found, tmp_path):
    open_page(browser, found, tmp_path)
    query = browser.execute_script("page.look([.5, .5, .5]); page.draw(); return page.first.query")
    press(browser, "\ue014")  # right
    press(browser, ".")
    moved = browser.execute_script("return page.first.query")
    assert moved == [query[0] + 1, query[1], query[2] + 1]
    press(browser, "1")
    assert browser.execute_script("return page.first.block.name") == "res3.non_local0"
    press(browser, "b")  # the second distinctive point of the layer
    name = "res3.non_local0"
    point = found.summaries[name][1][1]
    assert browser.execute_script("return page.first.query") == list(point.query)
    now = browser.execute_script("return page.state.now")
    press(browser, " ")
    wait_until(lambda: browser.execute_script("return page.state.now") != now, "it plays")
    press(browser, " ")
    assert not browser.execute_script("return page.state.playing")
    press(browser, "c")
    wait_until(lambda: browser.execute_script("return !!page.second.block"), "a second layer")
    assert browser.execute_script("return page.second.block.name") == "res3.non_local1"


def test_as_many_arrows_as_were_asked_for(browser, tmp_path):
    found = nl.look(make_network(0), torch.rand(3, 8, 32, 32), top=3)
    open_page(browser, found, tmp_path)
    assert 1 <= browser.execute_script("return page.first.ends().length") <= 3


def test_a_layer_that_attends_evenly_is_said_to(browser, tmp_path):
    untrained = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    open_page(browser, nl.look(untrained, torch.rand(3, 8, 32, 32)), tmp_path)
    assert browser.execute_script("return page.first.ends().length") == 0
    assert browser.execute_script("return page.first.light(0)") is None
    text = browser.execute_script("return document.querySelector('.side').innerText")
    assert "This layer attends evenly: there is nothing to see." in text
    assert "Distinctive points" not in text
    assert "same places" not in text


def test_a_link_shows_the_same_again(browser, found, tmp_path):
    open_page(browser, found, tmp_path)
    browser.execute_script("page.look([.3, .8, .2]); page.first.choose(0)")
    settle(browser)
    address, query = browser.execute_script(
        "page.writeLink(); return [location.href, page.first.query]"
    )
    browser.get("about:blank")
    browser.get(address)
    ready(browser)
    again = browser.execute_script("return [page.first.block.name, page.first.query]")
    assert again == ["res3.non_local0", query]


def test_the_picture_can_be_saved(browser, found, tmp_path):
    open_page(browser, found, tmp_path)
    browser.execute_script("page.save()")
    file = browser.downloads / "a_clip.png"
    wait_until(file.exists, "a picture is saved")
    wait_until(lambda: file.stat().st_size > 0, "it is written")
    with Image.open(file) as image:
        assert image.size[0] >= 1600


def test_nothing_is_fetched(browser, found, tmp_path):
    open_page(browser, found, tmp_path)
    names = browser.execute_script(
        "return performance.getEntriesByType('resource').map(r => r.name)"
    )
    assert all(name.startswith("data:") for name in names)


def test_a_phone_shows_all_without_scrolling_sideways(browser, found, tmp_path):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        open_page(browser, found, tmp_path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        heights = browser.execute_script(
            "return [...document.querySelectorAll('button')].filter(b => b.offsetParent)"
            ".map(b => b.offsetHeight)"
        )
        assert min(heights) >= 40  # for fingers
        browser.save_screenshot(str(tmp_path / "phone.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_dark_is_dark(browser, found, tmp_path):
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    open_page(browser, found, tmp_path)
    colors = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    background, ink = (sum(map(int, color.strip("rgb()").split(", "))) / 3 for color in colors)
    assert background < 40
    assert ink > 200


def test_an_image_and_a_sequence(browser, tmp_path):
    torch.manual_seed(0)
    image = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), nl.NonLocalBlock(8, dims=2))
    open_page(browser, nl.look(image, torch.rand(3, 48, 64)), tmp_path)
    assert browser.execute_script("return page.first.block.size ?? page.first.query.length") == 3
    sequence = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3, 2, 1), nl.NonLocalBlock(8, dims=1))
    found = nl.look(sequence, torch.rand(4, 50), at=(30,))
    open_page(browser, found, tmp_path)
    assert browser.execute_script("return page.first.query") == [0, 0, found.attention.query[0]]


def test_a_hostile_title_is_text(browser, networks, videos, tmp_path):
    title = "</script><img src=x onerror=alert(1)>"
    found = nl.look(networks["first"], videos[0], title=title)
    (tmp_path / "look.html").write_text(render(found))
    browser.get((tmp_path / "look.html").as_uri())
    ready(browser)
    assert browser.execute_script("return document.querySelector('h1').textContent") == title
    assert browser.execute_script("return document.images.length") == 0
