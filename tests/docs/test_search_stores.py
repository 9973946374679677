"""The table of stores in docs/search.md is that of its rows."""

from __future__ import annotations

import csv

from tests.docs.test_pages import script


def test_the_table_of_stores_is_made_of_its_rows():
    module = script("search_stores")
    with module.ROWS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.MARK in page
    assert module.filled(page, rows) == page
