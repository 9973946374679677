"""What a hub may do to whoever reads or writes a model: refuse, break off, lie, send them elsewhere. Of all of it one
line is told, without a secret."""

from __future__ import annotations

import base64
import logging
import re
from urllib.parse import unquote

import pytest
import torch
from huggingface_hub import constants

from tests.hub.fake_hub import TOKEN, Repository, serving
from tests.inference.library_models import save_classifier
from vatt.__main__ import main
from vatt.hub import remote
from vatt.hub.remote import HubError, local_model, written_here
from vatt.inference import VATT, Classifier, load_pretrained

PUSH = ("me/tiny", "--license", "mit")
CREDENTIALS = "anna:s3%2Fcr%40t@"


@pytest.fixture
def pushed(hub, model, monkeypatch, capsys):
    """The model, pushed as me/tiny."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(model), *PUSH]) == 0
    capsys.readouterr()
    return hub.repositories["me/tiny"]


def error_of(call, *arguments, **options):
    with pytest.raises(HubError) as found:
        call(*arguments, **options)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("status", "read", "written"),
    [
        (401, "cannot be read with the token that is given", "cannot be written with the token that is given"),
        (403, "cannot be read with the token that is given", "cannot be written with the token that is given"),
        (404, "^me/tiny: http://.*404 Not Found", "^error: me/tiny: http://.*404 Not Found"),
        (409, "^me/tiny: http://.*409 Conflict", "^error: me/tiny: cannot be written"),
        (429, "answers 429, it was asked too often; ask in 7 seconds", "answers 429, it was asked too often; ask in 7"),
        (
            500,
            "not in the cache, and http://.* answers 500",
            "was not written: http://.* answers 500; try again",
        ),
        (
            503,
            "not in the cache, and http://.* answers 503",
            "was not written: http://.* answers 503; try again",
        ),
    ],
)
def test_what_a_hub_answers_is_one_line(hub, shared, model, status, read, written, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.status, hub.answered = status, {"Retry-After": "7"}
    assert re.search(read, error_of(local_model, "me/tiny"))
    assert main(["push", str(model), *PUSH]) == 1
    error = capsys.readouterr().err
    assert re.search(written, error), error
    assert error.count("\n") == 1
    assert sum(hub.waited) < 60


def test_a_hub_that_is_asked_too_often_leaves_the_copy(hub, shared, caplog):
    folder = local_model("me/tiny")
    for headers, when in (({"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, "later"), ({}, "later")):
        hub.status, hub.answered = 429, headers
        assert local_model("me/tiny") == folder
        assert f"answers 429, it was asked too often; ask {when}; the copy in the cache is used" in caplog.text
    assert sum(hub.waited) < 60


def test_an_answer_that_breaks_off(hub, shared, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.cut = "model.safetensors"
    assert re.search("^me/tiny: was not read to its end: http://.* cannot be reached", error_of(local_model, "me/tiny"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a half copy is none
    assert "it is not in the cache, and HF_HUB_OFFLINE forbids" in error_of(local_model, "me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.cut = "/api/models/me/tiny"
    assert "not in the cache, and http" in error_of(local_model, "me/tiny")
    hub.cut = "/commit/"
    assert main(["push", str(model), "me/new", "--license", "mit"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: me/new: was not written: http"), error
    assert error.count("\n") == 1
    hub.cut = None
    assert main(["push", str(model), "me/new", "--license", "mit"]) == 0
    assert torch.equal(
        VATT.from_pretrained("me/new").embed_text("star"), VATT.from_pretrained(model).embed_text("star")
    )


def test_a_hub_that_sends_elsewhere_takes_no_token_there(hub, shared, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as other:
        other.repositories = hub.repositories
        hub.moved = other.url.replace("127.0.0.1", "localhost")
        error_of(local_model, "me/gone")
        assert main(["push", str(model), *PUSH]) == 1
        assert other.requests
        assert not [h for _, _, h in other.requests if "authorization" in {name.lower() for name in h}]
    assert TOKEN not in capsys.readouterr().err


@pytest.mark.parametrize("commit", ["../../../../evil", "main", "", "A" * 40])
def test_a_commit_that_is_none_is_refused_before_anything_is_fetched(hub, shared, commit, monkeypatch):
    monkeypatch.setattr(Repository, "commit", commit)
    assert "as its commit" in error_of(local_model, "me/tiny")
    assert not [path for path in hub.asked("GET") if "resolve" in path]


def test_a_revision_is_pinned(hub, shared, model, tmp_path, monkeypatch):
    first = shared.commit
    folder = local_model("me/tiny")
    assert load_pretrained("me/tiny", revision=first).tokenizer is not None
    shared.files["config.json"] += b"\n"
    assert local_model("me/tiny", revision="main") != folder
    assert "me/tiny@gone" in error_of(VATT.from_pretrained, "me/tiny", revision="gone")
    assert "is none: letters, digits" in error_of(Classifier.from_pretrained, "me/tiny", revision="a b\n")
    assert "stands in the name, too" in error_of(local_model, "me/tiny@main", "v1")
    assert "is a folder, or no name on the hub" in error_of(VATT.from_pretrained, str(model), revision="v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_model("me/tiny", first) == folder


def test_a_folder_comes_before_the_hub(hub, shared, model, tmp_path):
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "tiny").symlink_to(model)  # the tests' working directory
    assert VATT.from_pretrained("me/tiny").tokenizer is not None
    assert not hub.requests


def test_a_model_that_is_there_is_not_mixed_with_ours(hub, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    foreign = {
        "README.md": b"---\nlibrary_name: transformers\n---\n# B",
        "config.json": b"{}",
        "model.safetensors": b"w",
    }
    hub.repositories["me/tiny"] = Repository(dict(foreign))
    assert main(["push", str(model), *PUSH]) == 1
    error = "me/tiny: holds a model there that vatt push has not written (config.json); choose another name"
    assert error in capsys.readouterr().err
    assert hub.repositories["me/tiny"].files == foreign
    hub.repositories["me/tiny"] = Repository({".gitattributes": b"", "README.md": b"---\nlicense: mit\n---\n"})
    assert main(["push", str(model), *PUSH]) == 0  # made by hand, still empty
    hub.repositories["me/tiny"].files["NOTES.md"] = b"mine"
    assert main(["push", str(save_classifier(tmp_path / "c")), *PUSH]) == 0  # another kind: has no words
    assert sorted(hub.repositories["me/tiny"].files) == [
        ".gitattributes",
        "NOTES.md",
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("status", [409, 412])
def test_what_somebody_writes_meanwhile_is_not_overlaid(hub, pushed, model, status, capsys):
    before = dict(pushed.files)
    hub.between, hub.conflict = {"README.md": b"# theirs"}, status
    assert main(["push", str(model), "me/tiny", "--license", "apache-2.0"]) == 1
    error = f"error: me/tiny: somebody else wrote to it meanwhile ({status}); nothing was written, try again\n"
    assert capsys.readouterr().err == error
    assert pushed.files == before | hub.between


@pytest.mark.parametrize(
    ("page", "empty"),
    [
        (b"", True),
        (b"---\n---", True),
        (b"---\r\nlicense: mit\r\n---\r\n\r\n", True),
        (b"# Mine", False),
        (b"---\nlicense: mit\n---\n# Mine\n---\n", False),
        (b"---\nlicense: mit\n", False),
        (b"---\n---\n" + b" " * 2**20, False),  # larger than what is read
    ],
)
def test_a_page_written_by_hand_is_not_replaced(hub, model, page, empty, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories["me/tiny"] = Repository({"README.md": page, "LICENSE": b"mine"})
    assert main(["push", str(model), *PUSH]) == (0 if empty else 1)
    files = hub.repositories["me/tiny"].files
    assert files["LICENSE"] == b"mine"
    if not empty:
        error = "me/tiny: holds a page there that vatt push has not written (README.md); choose another name"
        assert error in capsys.readouterr().err
        assert files["README.md"] == page


def test_only_a_page_of_ours_is_taken_for_one():
    assert written_here("---\nlicense: mit\nlibrary_name: vatt-torch\n---\n\n# x")
    assert not written_here("# x\n---\nlibrary_name: vatt-torch\n---\n")
    assert not written_here("---\nlibrary_name: other\n---\nlibrary_name: vatt-torch\n---\n")
    assert not written_here("---\nlibrary_name: vatt-torch\n")


def test_the_address_of_the_hub_shows_no_password(hub, shared, model, monkeypatch, capsys, caplog):
    """HF_ENDPOINT may hold a name and a password; the library's own warnings while it tries again show addresses."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = hub.url.replace("//", f"//{CREDENTIALS}")
    hub.accepted = {"Basic " + base64.b64encode(unquote(CREDENTIALS[:-1]).encode()).decode()}
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.url, address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)  # to caplog
    assert main(["push", str(model), "me/new", "--license", "mit"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{hub.url}/me/new\n"
    errors = []
    for hub.status in (400, 404, 429, 503):
        assert main(["push", str(model), *PUSH]) == 1
        errors.append(error_of(local_model, "me/tiny"))
    hub.status = None
    hub.cut = "model.safetensors"
    errors.append(error_of(local_model, "me/tiny"))
    assert "Error while downloading from http" in caplog.text  # told by the library, and cleaned
    told = capsys.readouterr()
    everything = " ".join([told.out, told.err, caplog.text, *errors])
    for secret in ("anna", "s3%2F", "s3/", "cr%40t", "cr@t", *hub.accepted, TOKEN):
        assert secret not in everything


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("https://hub.example/", "https://hub.example"),
        ("https://a:b@hub.example/x", "https://hub.example/x"),
        ("https://a:b@c/d@hub.example", "https://hub.example"),
        ("https://hub.example/x?token=abc#d", "https://hub.example/x"),
    ],
)
def test_what_is_shown_of_an_address(endpoint, shown, monkeypatch):
    assert remote._host(endpoint) == shown
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "another-kind-of-token")
    error = OSError(f"GET {endpoint}/api: Bearer abc: Basic YTpi: another-kind-of-token, https://u:p@other/x@y")
    assert remote._clean(error) == f"GET {shown}/api: *** *** ***, https://other/x@y"
