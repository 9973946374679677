"""The page in a real browser: its policy holds, the table sorts and filters, and it fits a phone."""

from __future__ import annotations

import pytest

from bench.report.run import main
from bench.store import append
from tests.browser import NAMES, Browser, BrowserError, find

PHONE, DESK = (390, 844), (1280, 900)
TIMES = {"triton": 9.5, "torch": 100.0, "sdpa": 20.25, "torch.compile": 1234.5, "<b>peer</b>" + "x" * 80: 0.001}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Made-up rows of a device that does not exist: two commits, a failure, a long and hostile name, a job."""
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for day, commit in enumerate(("aaaaaaa11111", "bbbbbbb22222"), 1):
        known = dict(commit=commit, dirty=day == 2, device="Testing device", cuda="12.9", torch="2.13.0", run=commit)
        known |= dict(
            time=f"2026-01-0{day}T00:00:00Z", dtype="bfloat16", mode="forward", roof_tflops=700, roof_gbps=3000
        )
        op = dict(known, suite="ops", op="attention", case="video", command="python -m bench.run " + "--long " * 60)
        rows += [
            dict(op, provider=name, ms=ms, tflops=9 / ms, gbps=30 / ms, ms_p20=ms / 2) for name, ms in TIMES.items()
        ]
        rows += [dict(op, provider="flash_attn", mode="", note="not installed, " + "for a long reason " * 30)]
    rows += [dict(known, suite="jobs", op="train", case="sample", provider="ours", rate=12.5, unit="samples/s")]
    append(folder / "results.csv", rows)
    assert main([str(folder / "results.csv"), "--out", str(folder / "page.html")]) == 0
    return (folder / "page.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find()
    if program is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(NAMES)}")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(browser, page):
    browser.events.clear()
    browser.size(*DESK)
    browser.open(page)
    return browser


def column(browser, name):
    """The texts of a column of the rows that are shown, from above."""
    place = f"[...document.querySelectorAll('#rows th')].findIndex((th) => th.textContent === '{name}')"
    rows = "[...document.querySelectorAll('#rows tbody tr')].filter((row) => row.offsetParent !== null)"
    return browser.run(f"{rows}.map((row) => row.cells[{place}].textContent)")


def header(browser, name):
    """A selector of the button of a column."""
    place = browser.run(f"[...document.querySelectorAll('#rows th')].findIndex((th) => th.textContent === '{name}')")
    return f"#rows th:nth-child({place + 1}) button"


def test_nothing_is_refused_and_nothing_is_fetched(opened, page):
    opened.run("new Promise((done) => setTimeout(done, 200))")
    assert opened.problems() == []
    assert set(opened.requests()) == {page}


def test_this_browser_tells_when_a_policy_is_violated(opened):
    """What the test above relies on: the same page with one more script has a problem to tell."""
    opened.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.bad = 1'}))")
    opened.wait(lambda: any("ontent" in found and "script-src" in found for found in opened.problems()), "a problem")
    assert opened.run("window.bad") is None


def test_a_header_sorts_numbers_both_ways_with_empty_cells_last(opened):
    button = header(opened, "ms")
    state = f"document.querySelector({button!r}).parentElement.ariaSort"
    assert opened.run(state) is None
    want = ["0.001", "0.001", "9.5", "9.5", "20.25", "20.25", "100", "100", "1,234", "1,234"]
    empty = ["", "", ""]
    opened.click(button)
    assert (opened.run(state), column(opened, "ms")) == ("ascending", want + empty)
    opened.click(button)
    assert (opened.run(state), column(opened, "ms")) == ("descending", want[::-1] + empty)
    opened.click(header(opened, "provider"))
    assert opened.run(state) is None


def test_the_keyboard_sorts_too(opened):
    button = header(opened, "case")
    opened.run(f"document.querySelector({button!r}).focus()")
    opened.key("Enter", "\r")
    assert column(opened, "case") == ["sample"] + ["video"] * 12


def test_the_filter_keeps_the_rows_with_all_words(opened):
    opened.click("#filter")
    opened.type("TORCH compile bbbbbbb")
    assert column(opened, "provider") == ["torch.compile"]
    assert opened.run("document.getElementById('count').textContent") == "1 of 13 rows"
    opened.run("document.getElementById('filter').select()")
    opened.type("no such row")
    assert column(opened, "provider") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_it_fits_the_screen(opened, page, size, scheme):
    opened.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened.size(*size)
    opened.open(page)
    assert opened.run("document.documentElement.scrollWidth") <= size[0]
    boxes = opened.run("[...document.querySelectorAll('svg')].map((svg) => svg.getBoundingClientRect().toJSON())")
    assert len(boxes) >= 3  # a roofline, bars, a history
    assert all(box["width"] > 100 and box["height"] > 20 and box["right"] <= size[0] for box in boxes)
    inside = "[...document.querySelectorAll('svg text')].every((t) => t.getBoundingClientRect().right <= innerWidth)"
    assert opened.run(inside)
    assert opened.run("parseFloat(getComputedStyle(document.querySelector('svg text')).fontSize)") > 5
    names = (
        "['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number))"
    )
    ink, back = map(sum, opened.run(names))
    assert abs(ink - back) > 300
    assert (ink < back) == (scheme == "light")


def test_without_scripts_the_table_is_whole_and_plain(opened, page):
    opened.ask("Emulation.setScriptExecutionDisabled", value=True)
    opened.open(page)
    opened.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert len(column(opened, "provider")) == 13
    assert opened.run("document.querySelectorAll('#rows button').length") == 0
    assert opened.run("document.querySelector('.filter').offsetParent") is None


def test_a_browser_that_does_not_answer_is_given_up(tmp_path):
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(BrowserError, match=r"no answer in 0\.5 s"):
        Browser(str(silent), tmp_path / "profile", timeout=0.5)
