"""The explorer in a real browser."""

import base64

from pages import wait_until


def message(browser):
    return browser.execute_script("return page.message.textContent")


def open_site(browser, address):
    browser.get("about:blank")
    browser.get(address)
    wait_until(lambda: browser.execute_script("return !!window.page?.first.block"), "a clip")
    wait_until(lambda: message(browser) == "", "it is looked at")


def drop(browser, name, data):
    """Drop a file on the page."""
    browser.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[1]), c => c.charCodeAt(0));"
        "const files = new DataTransfer(); files.items.add(new File([bytes], arguments[0]));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: files, bubbles: true,"
        "cancelable: true}))",
        name,
        base64.b64encode(data).decode(),
    )


def test_the_first_video_is_shown_with_what_the_network_says(browser, site, videos):
    open_site(browser, site)
    text = browser.execute_script("return document.querySelector('.prediction').innerText")
    assert "same" in text
    assert "different" in text
    options = browser.execute_script("return [...page.videos.options].map(o => o.text)")
    assert options == [video.name for video in videos]


def test_another_video_and_two_networks_beside_each_other(browser, site, videos):
    open_site(browser, site)
    browser.execute_script(
        "page.videos.selectedIndex = 1; page.videos.dispatchEvent(new Event('change'))"
    )
    wait_until(
        lambda: browser.execute_script("return page.about.title") == videos[1].name, "the second"
    )
    browser.execute_script("page.set('two', true)")
    wait_until(lambda: browser.execute_script("return !!page.second.block"), "the second network")
    assert browser.execute_script("return page.second.block.signed")
    assert not browser.execute_script("return page.first.block.signed")
    address = browser.execute_script("page.writeLink(); return location.href")
    open_site(browser, address)
    wait_until(lambda: browser.execute_script("return !!page.second.block"), "the link has both")
    assert browser.execute_script("return page.about.title") == videos[1].name
    assert browser.execute_script("return page.against") == "second"


def test_a_dropped_video_is_shown(browser, site, videos):
    open_site(browser, site)
    drop(browser, "mine <b>.mp4", videos[2].read_bytes())
    wait_until(lambda: browser.execute_script("return page.about?.title") == "mine <b>.mp4", "mine")
    wait_until(lambda: message(browser) == "", "it is looked at")


def test_a_broken_file_is_told_and_the_page_goes_on(browser, site):
    browser.allowed_errors = ("422",)  # Chromium logs every answer that is an error
    open_site(browser, site)
    drop(browser, "broken.mp4", b"this is no video")
    wait_until(
        lambda: "roken.mp4" in message(browser) and "ploading" not in message(browser), "told"
    )
    assert "error" in browser.execute_script("return page.message.className")
    assert browser.execute_script("return !page.panels.hidden")
    drop(browser, "large.mp4", bytes((1 << 20) + 1))
    wait_until(lambda: "larger than 1 MiB" in message(browser), "too large")


def test_hovering_answers_at_once(browser, site):
    open_site(browser, site)
    took = browser.execute_async_script(
        "const done = arguments[0]; const times = [];"
        "const step = (i) => { if (i === 20) return done(Math.max(...times));"
        "const began = performance.now();"
        "page.look([(i % 8 + .5) / 8, .3, (i + .5) / 20]); page.draw();"
        "times.push(performance.now() - began); requestAnimationFrame(() => step(i + 1)); };"
        "step(0)"
    )
    assert took < 100  # ms


def test_without_videos_the_page_says_what_to_do(browser, site):
    browser.get(site)
    wait_until(lambda: browser.execute_script("return !!window.page?.first.block"), "a clip")
    browser.execute_script("page.work(false)")
    text = browser.execute_script("return page.empty.innerText")
    assert "Drop a video here" in text
