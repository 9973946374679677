"""The page, the picture and the table of a results file, read back from what was written."""

from __future__ import annotations

import html
import itertools
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from bench.__main__ import main as benchmark
from bench.report import data
from bench.report.charts import bars, roofline
from bench.report.data import is_ours, newest, noise, primary, role
from bench.report.run import main
from bench.report.words import command, share, short
from bench.store import append, read
from vatt.html import policy

HOSTILE = '<script>alert(1)</script>\x07 & "peer" \'`|'
SVG = "{http://www.w3.org/2000/svg}"
SECONDS = itertools.count()


def row(**values):
    """A made-up row of a device that does not exist."""
    minute, second = divmod(next(SECONDS) % 3600, 60)
    known = dict(time=f"2026-01-01T00:{minute:02}:{second:02}Z", run="r1", commit="aaaaaaa11111", dirty="False")
    known |= dict(device="Testing device", threads="", cuda="12.9", python="3.11.7", torch="2.13.0", triton="3.7.1")
    known |= dict(suite="ops", op="attention", case="video_785_h12", shape="made up", dtype="bfloat16", dropout=0.1)
    known |= dict(mode="forward+backward", provider="triton", command="python -m bench ops --case x")
    return known | values


def day(number):
    return f"2025-06-{number + 1:02}T00:00:00Z"


def timed(ms, **values):
    known = dict(ms=ms, ms_p20=ms * 0.9, ms_p80=ms * 1.2, roof_tflops=700.0, roof_gbps=3000.0, floor_ms=0.5)
    if ms:
        known |= dict(tflops=100 / ms, gbps=400 / ms, floor_share=0.5 / ms)
    return row(**(known | values))


def operations():
    """One case: ours twice, eager, compiled, two baselines, one that fails; a norm, which has no operations."""
    times = {"triton": 1.0, "triton again": 1.05, "torch": 4.0, "torch.compile": 2.0, "sdpa": 0.8, HOSTILE: 3.0}
    found = [timed(ms, provider=name) for name, ms in times.items()]
    found.append(row(provider="flash_attn", mode="", note="ModuleNotFoundError: <no flash_attn>"))
    norm = dict(op="norm", case="layer", tflops=0.0)
    return [*found, timed(0.2, **norm), timed(0.3, **norm, provider="torch")]


def steps():
    found = []
    for name, ms in {"ours triton": 100.0, "ours torch": 200.0, "plain PyTorch": 400.0}.items():
        rates = dict(gbps=None, rate=64e3 / ms, unit="samples/s", mfu=0.4)
        found.append(timed(ms, suite="steps", op="step", case="vatt-tiny b64", mode="step", provider=name, **rates))
    return found


def cpu(**values):
    return timed(7.0, device="Testing CPU, 2 cores", threads=2, cuda="12.9", provider="auto", **values)


@pytest.fixture
def make(tmp_path):
    """Writes rows, runs the command, and returns the text of the page."""

    def run(*rows, options=()):
        path = tmp_path / "results.csv"
        path.unlink(missing_ok=True)
        append(path, rows)
        out = tmp_path / "page.html"
        assert main([str(path), "--out", str(out), *options]) == 0
        return out.read_text()

    return run


class Reader(HTMLParser):
    """The tags of a page, and its visible text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self._silent = [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_says_what_is_known_and_of_which_device(make):
    text = Reader(make(*operations(), *steps(), cpu())).text
    assert "Measured on: Testing device; Testing CPU, 2 cores (2 threads). Nothing on this page is known of any" in text
    assert "No GPU speed has been measured" not in text
    assert "Without a point, because their rows name no operations or no bytes: norm, step." in text
    assert "One commit only was measured here, so there is no history." in text
    assert "Two timings of the same call of ours differ by up to 5.0%" in text


def test_without_a_cuda_device_it_says_so_in_words(make, capsys):
    """A PyTorch that is built for CUDA names a CUDA version on a CPU too; those rows are not of a GPU."""
    text = Reader(make(cpu(), options=["--markdown"])).text
    words = "No GPU speed has been measured: no row comes from a CUDA device."
    assert words in text
    assert words in capsys.readouterr().out


def test_all_providers_have_a_bar_with_their_ratio_and_failures_a_reason(make):
    text = Reader(make(*operations(), *steps())).text
    for words in ("ours (triton) 1 ms", "torch 4 ms, 4x of ours", "sdpa 0.8 ms, 0.8x of ours"):
        assert words in text
    for words in ("ours triton 640 samples/s", "plain PyTorch 160 samples/s, 0.25x of ours"):
        assert words in text
    assert "flash_attn : ModuleNotFoundError: <no flash_attn>" in text


def test_hostile_text_stays_text(make, tmp_path, capsys):
    hostile = dict.fromkeys(("device", "op", "case", "shape", "dtype", "mode", "commit", "command", "unit"), HOSTILE)
    bad = [timed(1.0, **hostile), timed(2.0, **hostile, provider=HOSTILE), row(note=HOSTILE, provider=HOSTILE)]
    bad += [timed(2.0, **hostile, suite="jobs", rate=3.0), timed(1.0, op="norm", case=HOSTILE)]
    picture = tmp_path / "picture.svg"
    page = make(*operations(), *bad, options=["--svg", str(picture), "--markdown"])
    tags = [tag for tag, _ in Reader(page).tags]
    assert tags.count("script") == 1  # our own
    assert not any(name.startswith("on") for _, attributes in Reader(page).tags for name in attributes)
    assert "\x07" not in page
    assert HOSTILE.replace("\x07", "\N{REPLACEMENT CHARACTER}") in html.unescape(page)
    assert not list(ET.parse(picture).getroot().iter(f"{SVG}script"))
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) > 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}  # no cell ends early
    assert "<script" not in "".join(table).replace(r"\<script", "")


def test_the_policy_allows_nothing_but_our_style_and_script(make):
    found = Reader(make(*operations()))
    metas = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert metas == [policy(script=True)]
    assert "default-src 'none'" in metas[0]
    assert "unsafe" not in metas[0]
    addresses = [a[name] for _, a in found.tags for name in ("href", "src") if name in a]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    anchors = {a["id"] for _, a in found.tags if "id" in a}
    assert {address[1:] for address in addresses} <= anchors
    assert not any("style" in a for _, a in found.tags)  # the policy would refuse it


def test_history_wants_two_commits_with_the_same_torch(make):
    old = dict(commit="bbbbbbb22222", run="r0", time="2025-12-01T00:00:00Z")
    assert "2 commits were measured, but no case" in Reader(make(timed(2.0, **old, torch="2.12.0"), timed(1.0))).text
    changed = timed(1.5, dirty="True", run="r2", time="2026-01-02T00:00:00Z")
    text = Reader(make(timed(2.0, **old), timed(4.0, **old, provider="torch"), timed(1.0), changed)).text
    text = text.partition(" History ")[2]
    assert "bbbbbbb: triton 2 ms" in text
    assert "bbbbbbb: torch 4 ms" in text
    assert "aaaaaaa*: triton 1.5 ms" in text
    assert text.index("bbbbbbb: triton") < text.index("aaaaaaa: triton") < text.index("aaaaaaa*: triton")
    assert "One commit only" in Reader(make(timed(1.0), changed)).text


def test_the_newest_state_of_a_case_is_shown_and_never_mixed(tmp_path):
    """Baselines of an older commit are not set beside ours of a newer one; a comparison of commits has none at all."""
    path = tmp_path / "results.csv"
    pair = dict(commit="ccccccc33333", run="r9", time=day(3), command="python -m bench compare --base aaaaaaa --case x")
    old = dict(commit="bbbbbbb22222", run="r0", time=day(0))
    append(path, [timed(1.0, time=day(1)), timed(0.5, time=day(2)), timed(9.0, **old), timed(3.0, **pair)])
    append(path, [timed(8.0, **old, provider="sdpa")])
    (case,) = newest(data.load([path]))
    assert case.revision == data.Revision("aaaaaaa11111", False)
    assert {name: r["ms"] for name, r in case.modes["forward+backward"].items()} == {"triton": "0.5"}


def test_two_states_that_were_measured_in_turns_stand_in_their_order(tmp_path):
    path = tmp_path / "results.csv"
    append(path, [timed(1.0, commit=commit, run="r7", time=day(0)) for commit in ("new", "base")])
    append(path, [timed(1.0, commit="later", run="r8")])
    assert [state.commit for state in data.revisions(read(path))] == ["base", "new", "later"]


def test_peaks_and_points_come_from_the_rows(tmp_path):
    path = tmp_path / "results.csv"
    append(path, [timed(1.0), timed(2.0, provider="sdpa")])
    plot = roofline(newest(data.load([path])))
    assert "Device peak, bfloat16: 700 TFLOP/s (a large product) and 3,000 GB/s (a copy)." in plot
    shapes = ET.fromstring(re.search("<svg.*</svg>", plot)[0])
    squares = {square.get("class"): square for square in shapes.iter("rect")}
    assert set(squares) == {"ours", "baseline"}
    # 100 TFLOP/s and 400 GB/s are 250 operations a byte, and half of both as well.
    assert squares["ours"].get("x") == squares["baseline"].get("x")
    assert float(squares["ours"].get("y")) < float(squares["baseline"].get("y"))
    assert "No row names both" in roofline(newest([r | {"gbps": ""} for r in read(path)]))


def test_bars_of_rates_turn_the_percentiles_round(tmp_path):
    path = tmp_path / "results.csv"
    append(path, steps())
    ours, eager, baseline = bars({r["provider"]: r for r in read(path)})
    assert (ours.value, ours.words, ours.kind) == (640.0, "640 samples/s", "ours")
    assert (ours.low, ours.high) == pytest.approx((640 / 1.2, 640 / 0.9))
    assert (eager.words, eager.kind) == ("320 samples/s, 0.5x of ours", "again")
    assert (baseline.words, baseline.kind) == ("160 samples/s, 0.25x of ours", "baseline")


def test_who_is_who():
    names = ["sdpa", "torch", "torch.compile of gather", "triton again", "triton", "triton_gemm", "ours torch.compile"]
    assert primary({name: {} for name in names}) == "triton"
    assert primary({"ours torch": {}, "ours torch.compile": {}, "ours auto": {}}) == "ours auto"
    assert primary({"torch": {}, "sdpa": {}, "ours torch.compile": {}}) is None
    times = {"triton+sdpa": "1", "gather": "2", "triton": "3", "triton again": "0.5", "torch.compile": "0.1"}
    assert primary({name: {"ms": ms} for name, ms in times.items()}) == "gather"
    assert list(map(role, names)) == ["baseline", "eager", "compiled", "again", "ours", "ours", "ours compiled"]
    assert [name for name in names if is_ours(name)] == names[3:]
    assert role("ours torch") == "eager"
    assert (role("triton+sdpa"), is_ours("triton+sdpa")) == ("ours", True)
    assert (role("torch+sdpa"), is_ours("torch+sdpa")) == ("baseline", False)
    assert noise({"triton": {"ms": "2"}, "triton again": {"ms": "2.2"}}) == pytest.approx(0.1)
    assert noise({"triton": {"ms": "2"}}) is None


def test_markdown_is_a_row_a_case_with_the_best_baseline(make, capsys):
    make(*operations(), *steps(), timed(5.0, dropout=0), options=["--markdown"])
    out = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert table[2][0] == "attention video_785_h12, bfloat16, dropout 0.1, forward+backward"
    assert table[2][1:] == ["1", "0.9 to 1.2", "4", "2", "0.8 (sdpa)", "0.8x", "50%"]
    names = [line[0].partition(",")[0] for line in table[2:]]
    assert names == ["attention video_785_h12", "norm layer", "step vatt-tiny b64"]
    versions = "Python 3.11.7, torch 2.13.0, Triton 3.7.1, CUDA 12.9"
    assert f"Device: Testing device; {versions}; commit aaaaaaa; 2026-01-01." in out
    assert "1 measurements failed" in out
    assert "`python -m bench ops --case x`" in out


def test_the_picture_names_device_versions_and_date(make, tmp_path):
    path = tmp_path / "picture.svg"
    make(cpu(), *operations(), *steps(), options=["--svg", str(path)])
    root = ET.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    words = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    for expected in ("Testing device; Python 3.11.7, torch 2.13.0", "2026-01-01", "aaaaaaa", "sdpa", "0.8x of ours"):
        assert expected in words
    assert "triton again" not in words
    assert any("back" in (r.get("class") or "") for r in root.iter(f"{SVG}rect"))  # its own background


def test_without_a_page_wanted_none_is_written(tmp_path, monkeypatch):
    append(tmp_path / "results.csv", operations())
    monkeypatch.chdir(tmp_path)
    assert main(["results.csv", "--svg", "picture.svg"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.svg", "results.csv"]
    assert main(["results.csv"]) == 0
    assert (tmp_path / "bench-report.html").exists()


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (None, [], "results.csv: cannot be read"),
        ([], [], "has a header but no rows"),
        ([timed(1.0), timed(0.0)], [], "line 3: ms is '0', not a finite number above zero"),
        ([timed(1.0, tflops="inf")], [], "line 2: tflops is 'inf', not a finite number of zero or more"),
        ([timed(1.0, error=-1.0)], [], "line 2: error is '-1'"),
        ([timed(1.0)], ["--svg", "picture.svg"], "there is nothing to draw"),
        (operations(), ["--svg", "no/such/folder.svg"], "no/such"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_no_file(tmp_path, monkeypatch, capsys, rows, options, words):
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        append(tmp_path / "results.csv", rows)
    assert benchmark(["report", "results.csv", "--out", "page.html", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"results.csv"}


def test_several_files_are_one_report(make, tmp_path):
    other = tmp_path / "other.csv"
    append(other, [cpu()])
    text = Reader(make(timed(1.0), options=[str(other)])).text
    assert "Testing device; Testing CPU" in text


def test_words():
    want = {0: "0", 0.01234: "0.0123", 1.5: "1.5", 12.34: "12.3", 1234.5: "1,230", 3e-6: "3.00e-06"}
    assert {value: short(value) for value in want} == want
    assert [share(x) for x in (None, 0.004, 0.5, 0.0)] == ["", "0.4%", "50%", "0%"]
    rows = [{"command": "python -m bench ops --op a"}, {"command": ""}, {"command": "python -m bench ops --case 'b"}]
    assert command(rows) == "python -m bench ops"
    rows = [{"command": f"python -m bench ops --case x --provider {name}"} for name in ("auto", "torch")]
    assert command(rows) == "python -m bench ops --case x"
