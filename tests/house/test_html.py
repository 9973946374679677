"""The blocks of pages: text is escaped, the policy allows what a page holds, charts show what they are given."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import xml.etree.ElementTree as ET

import pytest

from vatt import html
from vatt.charts import Bar, Line, Panel, Point, bar_chart, line_chart, panels, roofline

HOSTILE = "<script>alert('1')</script>\x00 & \"x\" \ud800"


def drawing(text):
    return ET.fromstring(re.search("<svg.*</svg>", text)[0])


def test_every_block_escapes_its_text():
    cell = html.Cell(HOSTILE, HOSTILE + "1")
    blocks = [
        html.section(HOSTILE, name=HOSTILE),
        html.heading(HOSTILE),
        html.paragraph(HOSTILE, HOSTILE),
        html.fold(HOSTILE, HOSTILE),
        html.cards([(HOSTILE, HOSTILE)]),
        html.links([(HOSTILE, HOSTILE)]),
        html.table([HOSTILE, cell], [(HOSTILE, [HOSTILE, cell])], HOSTILE, HOSTILE),
        html.facts([(HOSTILE, HOSTILE)]),
        html.figure(HOSTILE, HOSTILE),
        html.image(HOSTILE, HOSTILE),
        bar_chart([Bar(HOSTILE, HOSTILE, 1.0, None, None, "ours", HOSTILE)], HOSTILE),
        line_chart([Line([Point((0, 1), "ours", HOSTILE)], "ours", HOSTILE)], {0: HOSTILE}, HOSTILE, HOSTILE),
    ]
    for block in blocks:
        assert "<script" not in block
        assert not re.search("[\x00\ud800]", block)
        assert "&lt;script&gt;" in block
        ET.fromstring(f"<div>{block}</div>")  # every tag is closed, every quote ends


@pytest.mark.parametrize("script", [True, False])
def test_the_policy_allows_the_style_and_the_script_of_the_page_and_no_other(script):
    page = html.page("a title", [html.paragraph("text")], script)
    policy = re.search('Content-Security-Policy" content="([^"]*)"', page)[1]
    found = {tag: re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S) for tag in ("style", "script")}
    assert (len(found["style"]), len(found["script"])) == (1, int(script))
    for tag, texts in found.items():
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert re.findall(rf"{tag}-src 'sha256-([^']*)'", policy) == digests
    assert policy.startswith("default-src 'none'")


def test_a_line_breaks_where_a_value_is_not_finite():
    points = [Point((x, y), "ours") for x, y in enumerate((1.0, 2.0, math.nan, 3.0, 4.0, math.inf))]
    found = drawing(line_chart([Line(points, "ours", size=3)], {0: "first", 5: "last"}, "steps", "a label"))
    lines = [line for line in found.iter("polyline") if "ours" in line.get("class")]
    assert [len(line.get("points").split()) for line in lines] == [2, 2]
    assert len(list(found.iter("circle"))) == 4
    assert {"first", "last", "steps"} <= {text.text for text in found.iter("text")}


def test_a_line_of_one_point_is_a_mark():
    found = drawing(line_chart([Line([Point((7, 0.0), "ours")], "ours")], {7: "7"}, "steps", "a label"))
    assert len(list(found.iter("circle"))) == 1


def test_bars_are_as_long_as_their_values():
    values = {"a" * 60: (4.0, 3.0, 8.0), "b": (2.0, None, None)}
    bars = [Bar(name, "words", value, low, high, "ours", name) for name, (value, low, high) in values.items()]
    found = drawing(bar_chart(bars, "a label"))
    first, second = (float(rectangle.get("width")) for rectangle in found.iter("rect"))
    assert first == pytest.approx(2 * second, abs=0.1)
    assert first < float(found.get("width")) / 2  # the whisker reaches to the end
    assert len(list(found.iter("polyline"))) == 3
    assert max(len(text.text) for text in found.iter("text")) < 30


def test_a_roofline_names_each_operation_once_and_never_over_a_point():
    points = [Point((2.0**n, 0.1), "ours", name="norm", named=True) for n in range(8)]
    points.append(Point((1.0, 5.0), "baseline", square=True, name="mlp"))
    found = drawing(roofline(points, {"bfloat16": (100.0, 10.0)}, "across", "up", "a label"))
    texts = [text.text for text in found.iter("text")]
    assert texts.count("norm") == 1
    assert "mlp" not in texts  # none of its points may have the name
    assert "bfloat16" in texts
    (name,) = (text for text in found.iter("text") if text.text == "norm")
    heights = [float(circle.get("cy")) for circle in found.iter("circle")]
    assert all(abs(float(name.get("y")) - height) > 6 for height in heights)


def test_panels_stand_in_two_columns_and_escape_their_text():
    bar = Bar(HOSTILE, HOSTILE, 2.0, 1.5, 2.5, "ours", HOSTILE)
    found = panels(HOSTILE, [Panel(f"panel {number}", HOSTILE, [bar]) for number in range(3)], HOSTILE)
    texts = {text.text: text for text in ET.fromstring(found).iter("{http://www.w3.org/2000/svg}text")}
    places = [tuple(float(texts[f"panel {number}"].get(name)) for name in ("x", "y")) for number in range(3)]
    assert places[0][1] == places[1][1] < places[2][1]
    assert places[0][0] == places[2][0] < places[1][0]
    assert "<script" not in found
