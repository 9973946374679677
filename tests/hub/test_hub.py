"""Models that go to a hub and come from it. The hub is a small server on 127.0.0.1 (`tests.hub.fake_hub`)."""

from __future__ import annotations

import json
import logging
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from tests.hub.fake_hub import TOKEN, Repository, serving
from tests.inference.library_models import save_classifier
from vatt.__main__ import main
from vatt.hub.remote import HubError, local_model
from vatt.inference import VATT, Classifier, load_pretrained
from vatt.weights.folder import PretrainedError


def refused(name, match):
    with pytest.raises(HubError, match=match) as found:
        VATT.from_pretrained(name)
    assert "\n" not in str(found.value)


def test_a_pushed_model_comes_back_equal(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(model), "me/tiny", "--license", "mit", "--private"]) == 0
    assert capsys.readouterr().out == f"{hub.url}/me/tiny\n"
    assert hub.repositories["me/tiny"].private
    assert sorted(hub.repositories["me/tiny"].files) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    found, own = VATT.from_pretrained("me/tiny"), VATT.from_pretrained(model)
    assert torch.equal(found.embed_text("a red star"), own.embed_text("a red star"))
    assert type(load_pretrained("me/tiny")) is VATT
    assert main(["push", str(model), "me/tiny", "--license", "mit"]) == 0  # again: nothing is there twice


def test_only_what_is_read_is_fetched(hub, shared):
    shared.files |= {"pytorch_model.bin": b"\x80\x04", "loss.png": b"png", "run.py": b"import os"}
    folder = local_model("me/tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not [path for path in hub.asked("GET") if "pytorch_model" in path]
    assert local_model(f"me/tiny@{shared.commit}") == folder


def test_a_classifier(hub, tmp_path):
    save_classifier(tmp_path / "c")
    hub.repositories["me/c"] = Repository({path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()})
    assert Classifier.from_pretrained("me/c").config.classes == ["left", "right", "up"]
    with pytest.raises(PretrainedError, match="holds a Classifier"):
        VATT.from_pretrained("me/c")


def test_a_folder_comes_first(hub, model, tmp_path):
    shutil.copytree(model, tmp_path / "me" / "tiny")
    assert VATT.from_pretrained("me/tiny").config.name == "vatt-tiny"
    with pytest.raises(PretrainedError, match="no such folder"):
        VATT.from_pretrained(tmp_path / "gone")  # a Path is none of the hub
    assert not hub.requests


def test_without_the_hub_the_copy_in_the_cache_is_used(hub, shared, monkeypatch, caplog):
    folder = local_model("me/tiny")
    asked = len(hub.requests)
    hub.status = 503
    with caplog.at_level(logging.WARNING):
        assert local_model("me/tiny") == folder
    assert "answers 503; the copy in the cache is used" in caplog.text
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_model("me/tiny") == folder
    refused("me/other", "not in the cache, and HF_HUB_OFFLINE forbids the network")
    assert len(hub.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert local_model("me/tiny") == folder
    refused("runs/mine", r"^runs/mine: no such folder here; as a model of the hub .*127.0.0.1:9 cannot be reached")


def test_a_download_that_breaks_off_is_one_line(hub, shared, monkeypatch):
    def broken(*args, **options):
        raise ConnectionResetError("peer has gone")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    refused("me/tiny", "^me/tiny: was not read to its end: http://127.* cannot be reached .ConnectionResetError.; try")


def test_a_new_version_is_fetched(hub, shared):
    before = local_model("me/tiny")
    shared.files["config.json"] += b"\n"
    after = local_model("me/tiny")
    assert after != before
    assert (after / "config.json").read_bytes() == shared.files["config.json"]


def test_unknown_private_and_wrong_names(hub, shared, monkeypatch):
    refused("me/gone", r"^me/gone: no such folder here, and on http://127.* no such model that you may see")
    refused("me/tiny@v9", "no such revision")
    shared.private = True
    refused("me/tiny", "for a private one log in by hf auth login")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert VATT.from_pretrained("me/tiny").tokenizer is not None


@pytest.mark.parametrize("status", [400, 403, 418])
def test_no_message_shows_a_token(hub, shared, model, status, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.status = status
    assert main(["push", str(model), "me/tiny", "--license", "mit"]) == 1
    refused("me/tiny", "me/tiny: ")
    told = capsys.readouterr()
    assert any(headers.get("authorization", headers.get("Authorization")) for _, _, headers in hub.requests)
    assert TOKEN not in told.err + told.out
    assert told.err.startswith("error: me/tiny: ")


def test_a_token_goes_to_the_hub_alone(hub, shared, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as other:
        content = shared.files["model.safetensors"]
        other.stored[shared.entry("model.safetensors")["lfs"]["sha256"]] = content
        hub.elsewhere = other.url.replace("127.0.0.1", "localhost")
        assert (local_model("me/tiny") / "model.safetensors").read_bytes() == content
        assert other.asked("GET")
        assert not [h for _, _, h in other.requests if "authorization" in {name.lower() for name in h}]


def test_pickles_are_refused(hub, shared):
    shared.files["pytorch_model.bin"] = b"\x80\x04cos\nsystem\n"
    del shared.files["model.safetensors"]
    refused("me/tiny", "holds no model.safetensors, but pytorch_model.bin, which may run programs when it is read")
    assert not [path for path in hub.asked("GET") if "resolve" in path]  # nothing was fetched
    shared.files.pop("pytorch_model.bin")
    refused("me/tiny", "holds no model.safetensors$")


def test_huge_files_are_refused_before_they_are_fetched(hub, shared):
    shared.listed["config.json"] = {"size": 10**9}
    refused("me/tiny", "config.json has 1,000,000,000 bytes, too many")
    assert not [path for path in hub.asked("GET") if "resolve" in path]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_another_content_than_the_hub_lists_is_refused(hub, shared, name):
    entry = shared.entry(name)
    shared.files[name] = shared.files[name][:-1] + b"\x7f"
    shared.listed[name] = entry
    refused("me/tiny", f"{name} has another hash than the hub says; it was removed")
    refused("me/tiny", "has another hash")  # nor from the cache
    shared.files[name] = shared.files[name] + b"more"
    refused("me/tiny", "me/tiny: ")


def test_hostile_content_is_refused_as_in_a_local_folder(hub, shared):
    shared.files["config.json"] = b"[" * 100_000
    with pytest.raises(PretrainedError, match=r"config\.json: is nested deeper"):
        VATT.from_pretrained("me/tiny")
    shared.files["config.json"] = json.dumps({"video": {"d_model": 10**9}}).encode()
    with pytest.raises(PretrainedError, match=r"config\.json: video"):
        VATT.from_pretrained("me/tiny")


@pytest.mark.parametrize("name", ["tiny", "me/../tiny", "me/tiny/x", "me/ti ny", "me/tiny@main", "", "me/a--b"])
def test_wrong_names_are_refused_before_anything_is_sent(hub, model, name, capsys):
    assert main(["push", str(model), name, "--license", "mit"]) == 1
    assert "is no name of a model on the hub" in capsys.readouterr().err
    assert not hub.requests


def test_without_a_token_nothing_is_written(hub, model, capsys):
    assert main(["push", str(model), "me/tiny", "--license", "mit"]) == 1
    assert "log in by hf auth login, or give HF_TOKEN" in capsys.readouterr().err
    assert not hub.repositories


def test_a_licence_that_the_hub_does_not_know_is_told(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(model), "me/tiny", "--license", "my-own"]) == 1
    assert '"license" must be one of' in capsys.readouterr().err
    assert main(["push", str(model), "me/tiny", "--license", "My Own\n"]) == 1
    assert "is no identifier of a licence" in capsys.readouterr().err
