"""The page in a real Chromium, through Playwright: words, uploads, the player, the map, keys, phones, hostile names."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from tests.browser import NAMES, find
from tests.limits import HANG
from tests.serve.conftest import CAPTION, HOSTILE

pytest.importorskip("playwright", reason="the browser is driven by playwright, which is not installed")
from playwright.sync_api import expect, sync_playwright

expect.set_options(timeout=60_000)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]
NO_SCROLL = "document.documentElement.scrollWidth <= innerWidth"
# The contrast of the text of an element with what lies behind it (WCAG 2), of colours without transparency.
CONTRAST = """(selector) => {
  const numbers = (colour) => {
    const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  let element = document.querySelector(selector);
  const ink = light(numbers(getComputedStyle(element).color));
  while (element && numbers(getComputedStyle(element).backgroundColor)[3] < 255) element = element.parentElement;
  const back = light(numbers(getComputedStyle(element ?? document.documentElement).backgroundColor));
  return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
}"""
UNNAMED = """() => [
    ...document.querySelectorAll("button, a[href], input:not(.hidden), select, canvas, dialog, section")]
  .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length
    || one.getAttribute("aria-labelledby")))
  .map((one) => one.outerHTML)"""


@pytest.fixture(scope="module")
def chromium():
    program = find()
    if program is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page; at the end, nothing must have gone wrong in it, and nothing been loaded from elsewhere."""
    opened = []

    def open_page(query="", **context):
        found = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **context})
        found.set_default_timeout(60_000)
        page = found.new_page()
        problems, asked = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "assert") else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + "/" + query)
        expect(page.locator(".card").first).to_be_visible()
        opened.append((found, page, problems, asked))
        return page

    yield open_page
    for context, page, problems, asked in opened:
        assert page.evaluate("document.hacked") is None
        assert problems == []
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)
        context.close()


def until(page, script, what=None):
    """Waits for a script to be true. (Playwright's own wait needs eval, which the page's policy forbids.)"""
    end = time.monotonic() + HANG
    while not (found := page.evaluate(script, what)):
        assert time.monotonic() < end, script
        time.sleep(0.05)
    return found


def names(page):
    return page.locator(".card h3").all_text_contents()


def ask(page, words):
    page.fill("#words", words)
    page.press("#words", "Enter")
    expect(page.locator(".asked q")).to_have_text(words)
    expect(page.locator("#status")).to_contain_text("the best first")


def test_words_are_found_and_stay_in_the_address(visit):
    page = visit()
    assert len(names(page)) == 5
    ask(page, "a red circle moves")
    scores = [float(text.removeprefix("Score ")) for text in page.locator(".figure").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert "q=a+red+circle+moves" in page.url
    found = names(page)
    page.select_option("#folder", "holiday")
    expect(page.locator(".card")).to_have_count(2)
    page.reload()
    expect(page.locator(".card")).to_have_count(2)
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(len(found))
    assert names(page) == found
    page.go_back()
    expect(page.locator(".card")).to_have_count(2)
    page.fill("#words", "")
    expect(page.locator(".asked")).to_be_hidden()


def test_a_query_without_a_known_word_is_told(chromium, address):
    page = chromium.new_page()
    page.goto(address + "/?q=zzz")
    expect(page.locator("#status")).to_contain_text("no word that the model knows")
    page.close()


def test_hostile_names_and_captions_are_text(visit):
    page = visit()
    ask(page, "a red circle moves")
    assert HOSTILE in names(page)
    assert page.locator("main img[onerror], main script").count() == 0
    expect(page.locator(".caption", has_text="document.hacked=2")).to_have_text(CAPTION)
    turned = next(name for name in names(page) if "4pm" in name)
    assert "\\u202e" in turned  # written out, so that it does not turn what follows
    page.locator(".card", has_text="onerror").locator(".thumb").click()
    expect(page.locator("#title")).to_have_text(HOSTILE)
    page.click("#alike")
    expect(page.locator(".chip b")).to_have_text(HOSTILE)


def test_the_player_starts_at_the_moment_and_seeks(visit, served, address):
    page = visit()
    parts = []
    page.on("response", lambda found: parts.append(found.status) if "/media/" in found.url else None)
    row = int(np.flatnonzero(served.index.rows.file == served.film)[-1])
    page.goto(f"{address}/?like={row}")
    found = page.evaluate(f"fetch('/api/search?like={row}').then((answer) => answer.json())")["results"]
    start = next(one["start"] for one in found if one["item"] == served.film)
    assert start >= 2
    page.locator(".card", has_text="film.mp4").first.locator(".thumb").click()
    film = "document.querySelector('#stage video')"
    until(page, f"{film}?.readyState > 2 && !{film}.seeking")
    assert page.evaluate(f"{film}.currentTime") >= start - 0.1
    until(page, f"{film}.currentTime > {start + 0.2}")  # it plays
    assert set(parts) == {206}
    current = page.locator("#times button[aria-current]")
    expect(current).to_have_attribute("aria-label", f"Play from 0:0{int(start)}")
    other = page.locator("#times button[data-start]").last
    last = float(other.get_attribute("data-start"))
    other.click()
    until(page, f"{film}.currentTime >= {last} && !{film}.seeking")
    page.keyboard.press("r")
    expect(page.locator("#loop")).to_have_attribute("aria-pressed", "true")
    until(page, f"{film}.currentTime > {last + 0.5}")
    until(page, f"{film}.currentTime < {last + 0.5}")  # and begins again
    page.keyboard.press("Escape")
    expect(page.locator("#player")).to_be_hidden()
    assert page.evaluate("document.activeElement.className") == "thumb"
    assert page.locator("#stage video[src]").count() == 0  # nothing loads on


def test_a_card_moves_under_the_mouse(visit):
    page = visit()
    thumb = page.locator(".card", has_text="film.mp4").locator(".thumb")
    thumb.hover()
    until(page, "document.querySelector('.moving video')?.currentTime > 0.1")
    assert page.evaluate("document.querySelector('.moving video').muted")
    page.hover("h3 >> nth=-1")
    expect(page.locator(".preview")).to_have_count(0)


def test_sounds_and_clips_are_searched_by(visit, served):
    page = visit()
    page.set_input_files("#file", served.folder / "holiday" / "2024" / "hum.wav")
    expect(page.locator(".chip.audio .bars")).to_be_visible()
    expect(page.locator(".card h3").first).to_have_text("hum.wav")
    content = list((served.folder / "film.mp4").read_bytes())
    page.evaluate(
        """(content) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "dropped.mp4", {type: "video/mp4"}));
          for (const type of ["dragenter", "drop"])
            document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        content,
    )
    expect(page.locator(".chip.video img")).to_be_visible()
    expect(page.locator(".card h3").first).to_have_text("film.mp4")
    expect(page.locator("#drop")).to_be_hidden()
    page.select_option(".chip select", "audio")
    expect(page.locator(".chip.audio .bars")).to_be_visible()
    page.fill("#words", "a red circle")
    page.press("#words", "Enter")
    expect(page.locator(".weight")).to_be_visible()
    expect(page.locator(".card").first.locator(".scores .bar")).to_have_count(2)
    page.locator(".chip.clip button").click()
    expect(page.locator(".chip.clip")).to_have_count(0)
    large = [{"name": "large.mp4", "mimeType": "video/mp4", "buffer": b"x" * ((1 << 20) + 1)}]
    page.set_input_files("#file", large)
    expect(page.locator("#status")).to_contain_text("larger than 1 MiB")


def test_the_map_shows_names_and_plays(visit):
    page = visit()
    page.keyboard.press("m")
    expect(page.locator("#map-note")).to_contain_text("moments")
    points = page.evaluate("fetch('/api/map?by=picture').then((answer) => answer.json())")["points"]
    box = page.locator("#canvas").bounding_box()
    side = min(box["width"], box["height"]) - 60
    place = [box["width"] / 2 + (points[0]["x"] - 0.5) * side, box["height"] / 2 + (points[0]["y"] - 0.5) * side]
    painted = "([x, y]) => [...document.querySelector('#canvas').getContext('2d').getImageData(x, y, 1, 1).data][3]"
    assert page.evaluate(painted, place) > 100
    page.mouse.move(box["x"] + place[0], box["y"] + place[1])
    expect(page.locator("#tip b")).to_have_text(re.compile("film|4pm|onerror|still"))
    said = page.locator("#tip b").text_content()
    page.mouse.click(box["x"] + place[0], box["y"] + place[1])
    expect(page.locator("#title")).to_have_text(said)
    page.keyboard.press("Escape")
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#player")).to_be_visible()
    page.keyboard.press("Escape")
    page.select_option("#colour", "folder")
    expect(page.locator("#legend button")).to_have_count(2)
    assert "view=map" in page.url


def test_keys_lead_everywhere(visit):
    page = visit()
    page.keyboard.press("/")
    page.keyboard.type("a blue square")
    page.keyboard.press("Enter")
    expect(page.locator(".asked q")).to_have_text("a blue square")
    expect(page.locator("#status")).to_contain_text("the best first")
    page.keyboard.press("ArrowDown")
    focused = "[...document.querySelectorAll('.thumb')].indexOf(document.activeElement)"
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == 1
    second = names(page)[1]
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text(second)
    page.keyboard.press("n")
    expect(page.locator("#title")).to_have_text(names(page)[2])
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator(".thumb").nth(1).focus()
    page.keyboard.press("l")
    expect(page.locator(".chip b")).to_have_text(second)
    assert page.evaluate(UNNAMED) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_light_and_dark(visit, scheme):
    page = visit(color_scheme=scheme, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert page.evaluate(NO_SCROLL)
    ask(page, "a red circle moves")
    assert page.evaluate(NO_SCROLL)
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(lightness) < 60) == (scheme == "dark")
    for selector in (
        ".figure",
        ".caption",
        ".line h3",
        ".folder",
        "#status",
        "button.main",
        ".asked q",
        ".filters label",
    ):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    page.locator(".thumb").first.tap()
    expect(page.locator("#player")).to_be_visible()
    assert page.evaluate(NO_SCROLL)
    rights = "[...document.querySelectorAll('#player .buttons > *')].map((one) => one.getBoundingClientRect().right)"
    assert max(page.evaluate(rights)) <= 360
    assert page.evaluate("document.querySelector('#alike').scrollWidth <= document.querySelector('#alike').clientWidth")
    assert page.locator("#title").get_attribute("title") == page.locator("#title").text_content()
    page.evaluate("document.querySelector('#title').textContent = 'long name '.repeat(60)")
    assert page.evaluate("document.querySelector('#title').offsetHeight") < 60  # two lines
    page.click("#close")
    page.click("#theme")
    turned = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(turned) < 60) == (scheme == "light")
    page.click("#as-map")
    expect(page.locator("#map-note")).to_contain_text("moments")
    assert page.evaluate(NO_SCROLL)


def test_five_hundred_searches_of_the_page_at_once(visit):
    page = visit()
    script = """async () => {
      const ask = (number) => fetch(`/api/search?text=a+${["red", "blue"][number % 2]}+circle&top=2`);
      const answers = await Promise.all(Array.from({length: 500}, (_, number) => ask(number)));
      const texts = await Promise.all(answers.map((answer) => answer.json()));
      const different = new Set(texts.map((text) => JSON.stringify(text.results)));
      return [answers.filter((answer) => answer.ok).length, different.size];
    }"""
    assert page.evaluate(script) == [500, 2]
