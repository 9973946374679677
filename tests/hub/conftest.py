"""The hub of these tests, and a model that is on it. huggingface_hub asks it as it would ask huggingface.co; its
transport Xet, which needs another server, is switched off."""

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.hub.fake_hub import Repository, serving
from tests.inference.library_models import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, and a home without tokens and without a cache."""
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # as HF_ENDPOINT does, before the library is imported
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", hub.waited.append)  # before it tries again
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def shared(hub, model):
    """The model, there as me/tiny."""
    hub.repositories["me/tiny"] = Repository({path.name: path.read_bytes() for path in model.iterdir()})
    return hub.repositories["me/tiny"]
