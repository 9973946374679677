"""Caption files as tools write them and as editors break them, with what they say: (start, end, words) of each caption.

ffmpeg 5.1 reads 28 of them so; the other ones stand as a person would read them.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """A file and its captions."""

    name: str  # the suffix says the format
    content: bytes
    captions: list[tuple[float, float, str]]
    faults: int = 0  # cues that are left out, with a reason each


ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:03.429 align:start position:0%
 
welcome<00:00:00.960><c> to</c><00:00:01.520><c> the</c><00:00:02.159><c> show</c>

00:00:03.429 --> 00:00:03.439 align:start position:0%
welcome to the show
 

00:00:03.439 --> 00:00:05.749 align:start position:0%
welcome to the show
today<00:00:03.760><c> we</c><00:00:04.000><c> bake</c>

00:00:05.749 --> 00:00:05.759 align:start position:0%
today we bake
 
"""  # noqa: W293
ROLLED = [(0.16, 3.429, "welcome to the show"), (3.439, 5.749, "today we bake")]
TWO = [(1.0, 2.0, "one"), (3.0, 4.0, "two")]
ASS = r"""[Script Info]
Title: x
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname
Style: Default,Arial

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,not said
Dialogue: 0,0:00:01.00,0:00:02.50,Default,Ann,0,0,0,,{\an8\b1}Hello, {\i1}there{\i0}\Ntwo\hlines
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\p1}m 0 0 l 100 0{\p0}
Dialogue: 0,1:00:05.25,1:00:06.00,Default,,0,0,0,,a < b & c
"""


def _srt(text: str) -> bytes:
    return text.encode()


CASES = {
    # SubRip: breaks between the cues
    "plain": Case(
        "a.srt", _srt("1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"), TWO
    ),
    "no blank lines": Case(
        "a.srt", _srt("1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:03,000 --> 00:00:04,000\ntwo"), TWO
    ),
    "no numbers": Case(
        "a.srt", _srt("00:00:01,000 --> 00:00:02,000\none\n\n00:00:03,000 --> 00:00:04,000\ntwo\n"), TWO
    ),
    "neither": Case("a.srt", _srt("00:00:01,000 --> 00:00:02,000\none\n00:00:03,000 --> 00:00:04,000\ntwo\n"), TWO),
    "blank lines inside": Case(
        "a.srt",
        _srt("1\n00:00:01,000 --> 00:00:02,000\nfirst\n\nsecond\n\n2\n00:00:03,000 --> 00:00:04,000\n\ntwo\n"),
        [(1.0, 2.0, "first second"), (3.0, 4.0, "two")],
    ),
    "many blank lines": Case(
        "a.srt",
        _srt("\n\n1\n00:00:01,000 --> 00:00:02,000\none\n\n\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n\n\n"),
        TWO,
    ),
    "lines of spaces": Case(
        "a.srt", _srt("1\n00:00:01,000 --> 00:00:02,000\none\n \t\n2 \n00:00:03,000 --> 00:00:04,000 \n two \n"), TWO
    ),
    "a number is said": Case(
        "a.srt",
        _srt("1\n00:00:01,000 --> 00:00:02,000\nin\n1984\n\n2\n00:00:03,000 --> 00:00:04,000\n42\n"),
        [(1.0, 2.0, "in 1984"), (3.0, 4.0, "42")],
    ),
    "CRLF": Case(
        "a.srt", b"1\r\n00:00:01,000 --> 00:00:02,000\r\none\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\ntwo\r\n", TWO
    ),
    "CR": Case("a.srt", b"1\r00:00:01,000 --> 00:00:02,000\rone\r\r2\r00:00:03,000 --> 00:00:04,000\rtwo\r", TWO),
    "CR CR LF": Case(
        "a.srt",
        b"1\r\r\n00:00:01,000 --> 00:00:02,000\r\r\none\r\r\n\r\r\n2\r\r\n00:00:03,000 --> 00:00:04,000\r\r\ntwo",
        TWO,
    ),
    # SubRip: times
    "points": Case(
        "a.srt", _srt("1\n00:00:01.000 --> 00:00:02.000\none\n\n2\n00:00:03.000 --> 00:00:04.000\ntwo\n"), TWO
    ),
    "hours missing": Case("a.srt", _srt("1\n00:01,000 --> 00:02,000\none\n\n2\n00:03,000 --> 00:04,000\ntwo\n"), TWO),
    "no fraction": Case("a.srt", _srt("1\n00:00:01 --> 00:00:02\none\n\n2\n00:00:03 --> 00:00:04\ntwo\n"), TWO),
    "short": Case("a.srt", _srt("1\n0:0:1,5 --> 0:0:2,50\none\n"), [(1.5, 2.5, "one")]),
    "hours": Case("a.srt", _srt("1\n01:02:03,004 --> 101:02:03,5\none\n"), [(3723.004, 363723.5, "one")]),
    "spaces": Case(
        "a.srt", _srt("1\n00: 00: 01, 000 -> 00: 00: 02, 000\none\n\n2\n00:00:03,000-->00:00:04,000\ntwo\n"), TWO
    ),  # translated by machine
    "place": Case(
        "a.srt",
        _srt(
            "1\n00:00:01,000 --> 00:00:02,000  X1:63 X2:223 Y1:43 Y2:58\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"
        ),
        TWO,
    ),
    "out of order": Case(
        "a.srt", _srt("1\n00:00:03,000 --> 00:00:04,000\ntwo\n\n2\n00:00:01,000 --> 00:00:02,000\none\n"), TWO
    ),
    "overlapping": Case(
        "a.srt",
        _srt("1\n00:00:01,000 --> 00:00:05,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"),
        [(1.0, 5.0, "one"), (3.0, 4.0, "two")],
    ),
    "reversed": Case(
        "a.srt", _srt("1\n00:00:05,000 --> 00:00:04,000\nno\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"), TWO[1:], 1
    ),
    "unreadable time": Case(
        "a.srt", _srt("1\n00:xx:01,000 --> 00:00:02,000\nno\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"), TWO[1:], 1
    ),
    "a time of 400 digits": Case(
        "a.srt",
        _srt("1\n" + "9" * 400 + ":00:01,000 --> 00:00:02,000\nno\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"),
        TWO[1:],
        1,
    ),
    "negative": Case(
        "a.srt", _srt("1\n-00:00:01,000 --> 00:00:02,000\nno\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"), TWO[1:], 1
    ),
    # words
    "tags": Case(
        "a.srt",
        _srt('1\n00:00:01,000 --> 00:00:02,000\n{\\an8}<i>one</i><br/><FONT color="#fff">, <b>two</b></font>\n'),
        [(1.0, 2.0, "one , two")],
    ),
    "less than": Case(
        "a.srt",
        _srt("1\n00:00:01,000 --> 00:00:02,000\na < b and c > d, I <3 you, x<y>z, 1<2\n"),
        [(1.0, 2.0, "a < b and c > d, I <3 you, x<y>z, 1<2")],
    ),
    "empty cues": Case(
        "a.srt",
        _srt(
            "1\n00:00:00,000 --> 00:00:01,000\n\n2\n00:00:01,000 --> 00:00:02,000\none\n\n"
            "3\n00:00:02,000 --> 00:00:03,000\n<i></i>\n"
        ),
        [(1.0, 2.0, "one")],
    ),
    "an arrow is said": Case(
        "a.srt", _srt("1\n00:00:01,000 --> 00:00:02,000\ngo --> there\n"), [(1.0, 2.0, "go --> there")]
    ),
    "entities of a .srt": Case(
        "a.srt",
        _srt("1\n00:00:01,000 --> 00:00:02,000\nTom &amp; Jerry&#39;s R&D &nope;\n"),
        [(1.0, 2.0, "Tom & Jerry's R&D &nope;")],
    ),
    "a break of .ass": Case(
        "a.srt",
        _srt("1\n00:00:01,000 --> 00:00:02,000\n{\\an8}one\\Ntwo, C:\\New\n"),
        [(1.0, 2.0, r"one two, C:\New")],
    ),
    "marks of direction": Case(
        "a.srt",
        "1\n00:00:01,000 --> 00:00:02,000\n\u202bمرحبا\u202c\n\u2067می\u200cخواهم\u2069\n".encode(),
        [(1.0, 2.0, "مرحبا می\u200cخواهم")],
    ),
    # encodings
    "BOM": Case("a.srt", "\ufeff1\n00:00:01,000 --> 00:00:02,000\ngrün 🎬\n".encode(), [(1.0, 2.0, "grün 🎬")]),
    "UTF-16": Case("a.srt", "1\n00:00:01,000 --> 00:00:02,000\ngrün 🎬\n".encode("utf-16"), [(1.0, 2.0, "grün 🎬")]),
    "UTF-16 BE": Case(
        "a.srt", "\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\ngrün\r\n".encode("utf-16-be"), [(1.0, 2.0, "grün")]
    ),
    "UTF-16 without BOM": Case(
        "a.srt", "1\n00:00:01,000 --> 00:00:02,000\ngrün\n".encode("utf-16-le"), [(1.0, 2.0, "grün")]
    ),
    "Latin-1": Case(
        "a.srt",
        "1\n00:00:01,000 --> 00:00:02,000\nder grüne Käse\n".encode("latin-1"),
        [(1.0, 2.0, "der grüne Käse")],
        1,
    ),
    "Cyrillic, not in UTF-8": Case("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nпривет всем\n".encode("cp1251"), [], 1),
    "line separators inside": Case(
        "a.srt",
        "1\n00:00:01,000 --> 00:00:02,000\none\u2028two\x0bthree\x85four\n".encode(),
        [(1.0, 2.0, "one two three four")],
    ),
    # WebVTT
    "vtt": Case(
        "a.vtt",
        b"WEBVTT - title\nKind: captions\n\nNOTE\n00:09.000 --> 00:10.000\nnot said\n\nSTYLE\n::cue { color: red }\n\n"
        b"REGION\nid:fred\nwidth:40%\n\nintro\n00:01.000 --> 00:02.000 align:start line:0%\n<v Ann>one</v>\n\n"
        b"00:00:03.000 --> 00:00:04.000 region:fred\n<c.yellow.bg_blue>tw</c><i.loud>o</i>\n\nNOTE end\n",
        TWO,
    ),
    "entities": Case(
        "a.vtt",
        b"WEBVTT\n\n00:01.000 --> 00:02.000\n&gt;&gt; Tom &amp; Jerry&#39;s&nbsp;home\n",
        [(1.0, 2.0, ">> Tom & Jerry's home")],
    ),
    "more entities": Case(
        "a.vtt",
        b"WEBVTT\n\n00:01.000 --> 00:02.000\n&#x27;a&#x27; &lt;i&gt; &eacute;&rlm; &copy &#8217; &#"
        + b"9" * 6000
        + b"; R&D\n",
        [(1.0, 2.0, "'a' <i> é © ’ \ufffd R&D")],
    ),
    "rolling": Case("a.vtt", ROLLING.encode(), ROLLED),
    "rolling, CRLF": Case("a.vtt", ROLLING.replace("\n", "\r\n").encode(), ROLLED),
    "rolling, as .srt": Case(
        "a.srt",
        _srt(
            "1\n00:00:00,160 --> 00:00:03,429\n \nwelcome to the show\n\n"
            "2\n00:00:03,429 --> 00:00:03,439\nwelcome to the show\n \n\n"
            "3\n00:00:03,439 --> 00:00:05,749\nwelcome to the show\ntoday we bake\n\n"
            "4\n00:00:05,749 --> 00:00:05,759\ntoday we bake\n \n"
        ),
        ROLLED,
    ),
    "three lines roll": Case(
        "a.vtt",
        b"WEBVTT\n\n00:01.000 --> 00:02.000\none\n\n00:02.000 --> 00:03.000\none\ntwo\n\n"
        b"00:03.000 --> 00:04.000\none\ntwo\nthree\n\n"
        b"00:04.000 --> 00:05.000\ntwo\nthree\nfour\n",
        [(1.0, 2.0, "one"), (2.0, 3.0, "two"), (3.0, 4.0, "three"), (4.0, 5.0, "four")],
    ),
    "rolling, with silences": Case(
        "a.vtt",
        b"WEBVTT\n\n00:00.160 --> 00:03.429\n \nguten<00:00:00.960><c> tag</c>\n\n"
        b"00:03.429 --> 00:03.439\nguten tag\n \n\n00:10.439 --> 00:12.749\nguten tag\nwie geht\n\n"
        b"00:12.749 --> 00:12.759\nwie geht\n \n\n00:20.759 --> 00:22.000\nwie geht\nes dir\n",
        [(0.16, 3.429, "guten tag"), (10.439, 12.749, "wie geht"), (20.759, 22.0, "es dir")],
    ),
    "rolling, one sentence": Case(
        "a.vtt",
        b"WEBVTT\n\n00:00.160 --> 00:03.429\n \nhi<00:00:00.960><c> you</c>\n\n00:03.429 --> 00:03.439\nhi you\n \n",
        [(0.16, 3.429, "hi you")],
    ),
    "said twice": Case(
        "a.vtt",
        b"WEBVTT\n\n00:01.000 --> 00:02.000\nno\n\n00:02.000 --> 00:03.000\nno\n\n00:03.000 --> 00:04.000\nyes\n",
        [(1.0, 2.0, "no"), (2.0, 3.0, "no"), (3.0, 4.0, "yes")],
    ),
    "header only": Case("a.vtt", b"WEBVTT", []),
    "header and facts only": Case("a.vtt", b"WEBVTT\nKind: captions\nLanguage: en\n\nNOTE nothing was said\n", []),
    "header, BOM, CRLF": Case("a.vtt", b"\xef\xbb\xbfWEBVTT\r\n\r\n", []),
    "empty": Case("a.vtt", b"", []),
    "cues right below the header": Case(
        "a.vtt", b"WEBVTT\n00:01.000 --> 00:02.000\none\n\n00:03.000 --> 00:04.000\ntwo\n", TWO
    ),
    "no header": Case(
        "a.vtt", b"1\n00:00:01.000 --> 00:00:02.000\none\n\n2\n00:00:03.000 --> 00:00:04.000\ntwo\n", TWO
    ),
    "no blank lines in a .vtt": Case(
        "a.vtt", b"WEBVTT\n\n1\n00:01.000 --> 00:02.000\none\n2\n00:03.000 --> 00:04.000\ntwo\n", TWO
    ),
    "HLS": Case(
        "a.vtt", b"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000\n\n00:01.000 --> 00:02.000\none\n", TWO[:1]
    ),
    "WebVTT named .srt": Case("a.srt", b"WEBVTT\n\nid\n00:01.000 --> 00:02.000\none\n", TWO[:1]),
    "less than in a .vtt": Case("a.vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\na < b, <3\n", [(1.0, 2.0, "a < b, <3")]),
    "CR in a .vtt": Case("a.vtt", b"WEBVTT\r\r00:01.000 --> 00:02.000\rone\r\r00:03.000 --> 00:04.000\rtwo\r", TWO),
    "text outside of a cue": Case(
        "a.vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\none\n\nlost words\n\n00:03.000 --> 00:04.000\ntwo\n", TWO, 1
    ),
    # Advanced SubStation Alpha
    "ass": Case("a.ass", ASS.encode(), [(1.0, 2.5, "Hello, there two lines"), (3605.25, 3606.0, "a < b & c")]),
    "ssa, CRLF": Case(
        "a.ssa",
        ASS.replace("\n", "\r\n").encode("utf-16"),
        [(1.0, 2.5, "Hello, there two lines"), (3605.25, 3606.0, "a < b & c")],
    ),
}
