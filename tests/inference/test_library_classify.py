"""``Classifier.classify``: names and probabilities of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.media import write
from tests.inference.library_models import media, save_classifier
from vatt import Classifier, MediaError
from vatt.data import Clip, Views


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return media(tmp_path_factory.mktemp("media"), 2)


@torch.no_grad()
def test_a_video_is_the_mean_of_twelve_views(files, tmp_path):
    model = Classifier.from_pretrained(save_classifier(tmp_path / "c")).double()
    x = Views(4, 3).read(Clip(files[0]), "video", model.config.input, 30.0)
    shares = model(x, views=12)[0].softmax(0)
    found = model.classify(files[0])
    assert [name for name, _ in found] == [["left", "right", "up"][i] for i in shares.argsort(descending=True)]
    assert dict(found) == pytest.approx(dict(zip(["left", "right", "up"], shares.tolist(), strict=True)), abs=1e-5)
    assert sum(share for _, share in found) == pytest.approx(1, abs=1e-5)
    assert model.classify(files[0], top=1) == found[:1]
    both = model.classify(files, top=2, views=Views(1, 1))
    assert dict(both[1]) == pytest.approx(dict(model.classify(files[1], top=2, views=Views(1, 1))), abs=1e-5)
    assert dict(both[0]) != pytest.approx(dict(both[1]), abs=1e-3)
    with pytest.raises(ValueError, match="1 or more, got 0"):
        model.classify(files[0], top=0)
    with pytest.raises(MediaError, match=r"none\.mp4: video: no such file"):
        model.classify([files[0], tmp_path / "none.mp4"])


def test_a_picture_among_videos_keeps_its_place(files, tmp_path):
    import av

    picture = tmp_path / "p.png"
    pixels = np.random.default_rng(5).integers(0, 255, (40, 60, 3), np.uint8)
    with av.open(str(picture), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 60, 40, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    model = Classifier.from_pretrained(save_classifier(tmp_path / "c")).double()
    mixed = model.classify([picture, files[0]])
    for one, file in zip(mixed, [picture, files[0]], strict=True):
        assert dict(one) == pytest.approx(dict(model.classify(file)), abs=1e-5)


def test_sound_and_any_labels(files, tmp_path):
    model = Classifier.from_pretrained(save_classifier(tmp_path / "c", "audio", "multi")).double()
    with torch.no_grad():
        logits = model(Views(4, 1).read(Clip(files[0]), "audio", model.config.input, 30.0), views=4)[0]
    expected = dict(zip(["left", "right", "up"], logits.sigmoid().tolist(), strict=True))
    assert dict(model.classify(files[0])) == pytest.approx(expected, abs=1e-5)
    silent = write(tmp_path / "silent.mp4", np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(MediaError, match="the file has no sound"):
        model.classify(silent)
