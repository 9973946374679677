"""The folder of a model that is to be shared: what is in it, what its page says, and what stays with its owner."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.inference.library_models import save_classifier, save_model
from vatt.__main__ import main
from vatt.data.survey import Survey
from vatt.hub.remote import HubError
from vatt.hub.share import contents, write_folder
from vatt.inference import VATT

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
LEVEL = {"r1": 0.25, "r5": 0.5, "r10": 1.0, "median_rank": 4.5, "n": 96}
SECRET = "/home/anna/private"
BROKEN = " of them broken"


@pytest.fixture
def run(tmp_path):
    """The folder of a run, with records."""
    run = tmp_path / "run"
    save_model(run / "model")
    steps = [{"kind": "train", "step": n, "loss": 5 - n / 100, "vidtxt_loss": None} for n in (1, *range(10, 301, 10))]
    steps.append({"kind": "train", "step": 300, "loss": 1.5, "vidtxt_loss": 1.25})  # done again after a resume
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps) + '{"kind": "tra')
    files = {
        "config.json": {"run": {"steps": 300}, "optim": {"kind": "adam", "lr": 0.003}, "data": {"sources": [SECRET]}},
        "recipe.json": {"data": f"864 clips | <b>, 4 s each; 60 looked at, 1{BROKEN} ({SECRET}: no)", "choices": []},
        "environment.json": {"torch": "2.13.0", "nodes": "annas-laptop", "CPU": "Xeon"},
        "retrieval.json": {
            "table": {"text_to_video": LEVEL, "chance": {**LEVEL, "r1": 0.0104}},
            "oracle": {"text_to_video": {**LEVEL, "r1": 0.99}, "chance": LEVEL},
            "queries": [{"text": "my secret film", "video": SECRET}],
        },
    }
    for name, content in files.items():
        (run / name).write_text(json.dumps(content))
    (run / "loss.png").write_bytes(PNG)
    (run / "retrieval.png").write_bytes(b"no picture")
    (run / "checkpoints").mkdir()
    return run


def test_dry_run_writes_the_folder(run, capsys, monkeypatch):
    assert main(["push", str(run), "me/tiny", "--license", "cc-by-4.0", "--dry-run"]) == 0
    out = run.parent / "run-hub"
    names = ["README.md", "config.json", "loss.png", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert capsys.readouterr().out.splitlines()[0] == f"{out}: what would be sent as me/tiny"
    assert VATT.from_pretrained(out).tokenizer is not None
    card = (out / "README.md").read_text()
    for line in (
        'license: "cc-by-4.0"',
        'model = VATT.from_pretrained("me/tiny")',
        r"864 clips \| \<b\>, 4 s each; 60 looked at, 1 of them broken; 1 source.",
        "| learning rate | 0.003 |",
        "| 300 | 1.500 | 1.250 |",
        "![loss](loss.png)",
        "| text -> video | 25.0% | 50.0% | 100.0% | 4.5 | 96 |",
        "| chance | 1.0% | 50.0% | 100.0% | 4.5 | 96 |",
        "| oracle, text -> video | 99.0% | 50.0% | 100.0% | 4.5 | 96 |",
        "| text | 6 words at most, of 17 words | video (8), features (16) |",
        "| CPU | Xeon |",
    ):
        assert line in card.splitlines(), line
    content = b"".join(path.read_bytes() for path in out.iterdir())
    for secret in (SECRET, "annas-laptop", "my secret film"):
        assert secret.encode() not in content


def test_a_second_dry_run_writes_the_folder_anew_but_only_its_own(run, capsys):
    command = ["push", str(run), "me/tiny", "--license", "mit", "--dry-run"]
    out = run.parent / "run-hub"
    out.mkdir()
    assert main(command) == 0
    (run / "loss.png").unlink()
    assert main([*command[:4], "apache-2.0", "--dry-run"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert 'license: "apache-2.0"' in (out / "README.md").read_text()
    (run.parent / ".run-hub.0123abcd.partly").mkdir()  # what a killed process left
    capsys.readouterr()
    (out / "LICENSE").write_text("mine")
    assert main(command) == 1
    error = f"{out}: is there already, and vatt push has not written all of it (LICENSE); it stays as it is"
    assert capsys.readouterr().err == f"error: {error}: name another folder by --out\n"
    assert (out / "LICENSE").read_text() == "mine"
    (out / "LICENSE").unlink()
    (out / "README.md").write_text("# My own page")
    assert main(command) == 1
    assert "(README.md); it stays" in capsys.readouterr().err
    shutil.rmtree(out)
    out.write_text("a file")
    assert main(command) == 1
    assert "run-hub: is there already" in capsys.readouterr().err
    out.unlink()
    assert main(command) == 0
    assert not list(run.parent.glob(".*partly"))


HOSTILE = "a | b\n\n# <script>x</script> ![i](https://evil.example/i.png) www.evil.example @all \x1b[31m\u202e `c` $m$"


def test_words_in_records_are_no_markup(run):
    """A model of somebody else has records that may say anything where a number is expected."""
    level = {"r1": HOSTILE, "r5": [HOSTILE], "r10": True, "median_rank": HOSTILE, "n": HOSTILE}
    files = {
        "config.json": {"run": {"steps": HOSTILE}, "optim": {"kind": HOSTILE, "lr": [HOSTILE]}, "label": HOSTILE},
        "recipe.json": {"data": HOSTILE},
        "environment.json": {"torch": HOSTILE, "CPU": {"x": HOSTILE}, "ranks": -1},
        "retrieval.json": {
            "table": {"text_to_video": level, HOSTILE: level, "chance": HOSTILE},
            "oracle": {HOSTILE: level, "text_to_video": level},
        },
        "evaluation.json": {"table": {"top1": HOSTILE, "d-prime": HOSTILE, "n": HOSTILE}, "views": HOSTILE},
    }
    for name, content in files.items():
        (run / name).write_text(json.dumps(content))
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": HOSTILE, HOSTILE: 1.0}) + "\n")
    card = contents(run, "me/tiny", "mit")["README.md"].decode()
    found = re.findall(r"a \\\| b.*?\\\$m\\\$", card)
    shown = (
        r"a \| b\\n\\n\# \<script\>x\</script\> \!\[i\](https\://evil.example/i.png) www\.evil.example \@all "
        r"\\x1b\[31m\\u202e \`c\` \$m\$"
    )
    assert len(found) == 10
    assert set(found) == {shown}
    rest = card.replace(shown, "")
    for mark in ("<script", "evil", "@all", "\x1b", "\u202e", "$m$"):
        assert mark not in rest
    widths = [line.replace("\\|", "").count("|") for line in rest.splitlines() if line.startswith("|")]
    assert set(widths) <= {2, 3, 4, 5, 7}
    assert "| ranks | -1 |" in card


def test_the_line_of_a_survey_is_known(run):
    """The card leaves out the path with which it ends."""
    survey = Survey(3, 3, 0, looked_at=2, broken=(f"{SECRET}: decode: no",))
    assert f"1{BROKEN} ({SECRET}" in survey.line()


def test_a_licence_must_be_given(run, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["push", str(run), "me/tiny", "--dry-run"])
    assert ended.value.code == 2
    assert "--license" in capsys.readouterr().err


def test_a_model_without_a_run_and_a_classifier(tmp_path):
    save_classifier(tmp_path / "c", "audio", "multi")
    (tmp_path / "evaluation.json").write_text("is not of this model")
    card = (write_folder(tmp_path / "c", "me/c", "mit", tmp_path / "out") / "README.md").read_text()
    assert "has no records of a run: of its data and recipe nothing is known here" in card
    assert 'print(model.classify("bark.wav", top=3))' in card
    assert "any number of classes of 3: left, right, up." in card
    assert "pipeline_tag: audio-classification" in card
    assert "## Recipe" not in card
    assert "figures above" not in card


def test_the_table_of_a_classifier(tmp_path):
    save_classifier(tmp_path / "run" / "model")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"kind": "train", "step": 5, "loss": 1.0, "accuracy": 0.5}\n')
    table = {"top1": 0.585, "chance": 0.135, "n": 378, "without": []}
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps({"table": table, "views": "1 x 1"}))
    rates = {name: {"patch_sampling_rate": 0.5} for name in ("video", "waveform")}
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": rates}))
    card = (write_folder(tmp_path / "run", "me/c", "mit", tmp_path / "out") / "README.md").read_text()
    assert "| top 1 | 58.5% |\n| chance (the most frequent class) | 13.5% |\n| n | 378 |" in card
    assert "The figures above are of held-out clips" in card
    assert "share of patches kept (video) | 0.5 |" in card
    assert "kept (sound)" not in card


def test_damaged_records_and_models_are_refused_and_nothing_is_written(run, tmp_path):
    (run / "retrieval.json").write_text("[" * 1000)
    with pytest.raises(HubError, match=r"retrieval\.json: is nested deeper"):
        write_folder(run, "me/tiny", "mit", tmp_path / "out")
    (run / "retrieval.json").write_text('{"table": [1], "oracle": 7}')
    write_folder(run, "me/tiny", "mit", tmp_path / "odd")
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match="is damaged: its content differs from its checksum"):
        write_folder(run, "me/tiny", "mit", tmp_path / "out")
    assert not (tmp_path / "out").exists()
