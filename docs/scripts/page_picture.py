"""The picture of the page of ``vatt serve``.

python docs/scripts/page_picture.py http://127.0.0.1:8350/ docs/search-page.webp

Needs playwright, a Chromium on PATH, and a server of the index of the sample (docs/search.md).
"""

from __future__ import annotations

import io
import shutil
import sys
import time

from PIL import Image
from playwright.sync_api import sync_playwright

WORDS = "a red star"
SIZE = {"width": 1180, "height": 700}
ALL_THERE = """[...document.querySelectorAll('.card img')]
  .filter((one) => one.getBoundingClientRect().top < innerHeight).every((one) => one.complete && one.naturalWidth)"""


def main(address: str, out: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        for _ in range(2):  # the first time, pictures are made
            page.goto(f"{address}?q={WORDS.replace(' ', '+')}")
            page.wait_for_selector(".scores")
            while not page.evaluate(ALL_THERE):
                time.sleep(0.2)
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.convert("RGB").save(out, "WEBP", quality=80, method=6)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
