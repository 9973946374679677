"""Queries: words, sounds, films and pictures as vectors that windows are compared with.

Shapes: V windows, T frames, S side, L samples, D width.
"""

from __future__ import annotations

import string
import threading
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.clip import SILENCE
from vatt.data.captions import whole_characters
from vatt.data.clips import Clip
from vatt.data.decode import MediaError
from vatt.data.tokenizer import TextError
from vatt.inference.api import VATT
from vatt.inference.embed import embed_inputs, embed_media, embed_text
from vatt.search.format import SearchError
from vatt.search.model import load

Target = Literal["picture", "sound"]
TARGETS: tuple[Target, ...] = ("picture", "sound")
_WINDOWS = 4  # of a file that is asked with as a whole, averaged

# What is compared with what: (kind of query, target) -> (space of the query, vector set of the windows), by the head.
_FAC = {
    ("words", "picture"): ("video", "video-text"),
    ("sound", "sound"): ("video", "audio-video"),
    ("sound", "picture"): ("video", "video-audio"),
    ("film", "picture"): ("audio", "video-audio"),
    ("film", "sound"): ("audio", "audio-video"),
}
_JOINT = {
    (kind, target): (space, {"picture": "video", "sound": "audio"}[target])
    for kind, space in (("words", "video"), ("sound", "video"), ("film", "text"))
    for target in TARGETS
}
_MODALITY = {"words": "text", "sound": "audio", "film": "video"}
_LIKE = {"words": "picture", "sound": "sound", "film": "picture"}  # like with like


# Words that stand in captions of everything: articles, forms of "be" and "have", pronouns, prepositions without a
# direction. Of the kinds that lists of stop words have, those that a caption may be about are left out, such as "up".
STOP_WORDS = frozenset(
    """
    a an the this that these those some any each every there here is are was were be been being am has have had
    having do does did and or but nor so as if then than of to in on at by for with from into onto it its he she
    they them his her their we us our you your i me my who which what where when how not no very just also too can
    will would could should may s t
    """.split()  # noqa: SIM905
)
_NAMED = 5  # words in a message


def _listed(words: list[str]) -> str:
    shown = ", ".join(map(repr, dict.fromkeys(words[:_NAMED])))
    return shown + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        vectors: vector set -> float32 (D,), L2-normalised; a window is compared by the first of them that it has.
        weight: among several queries; below 0: the less like this, the better.
        name: of it, among several.
    """

    vectors: Mapping[str, np.ndarray]
    weight: float = 1.0
    name: str = "query"

    def weighted(self, weight: float) -> Query:
        """The same with another weight."""
        return replace(self, weight=weight)


class Encoder:
    """Makes queries with the model of an index, which is loaded when it is first needed. Threads wait for each other.

    Args:
        like: the vectors of a window of the index, by its id.
        workers: processes that decode files; 0 decodes here.
        vocabulary: the words, for a folder without tokenizer.json.
    """

    def __init__(
        self,
        model: Path,
        spaces: Mapping[str, int],
        device: str,
        like: Callable[[int], dict[str, np.ndarray]],
        workers: int = 0,
        vocabulary: Path | None = None,
    ) -> None:
        self.folder, self.spaces, self.device, self.workers = model, spaces, device, workers
        self.vocabulary = vocabulary
        self._like, self._lock = like, threading.RLock()
        self._table = _FAC if "video-text" in spaces else _JOINT

    def of_index(self, like: Callable[[int], dict[str, np.ndarray]]) -> Encoder:
        """The same, with the same model, for another index that was made with it."""
        other = copy(self)
        other._like = like
        return other

    @cached_property
    def model(self) -> VATT:
        """Raises PretrainedError, SearchError: it cannot be loaded."""
        return load(self.folder, self.device, "auto", self.vocabulary)

    def words(self, text: str, *, target: Target | None = None) -> Query:
        """A sentence. With a joint head, a window without a picture is compared by its sound.

        Raises:
            TextError: no word that the model knows, or it has no words.
            SearchError: words and sounds have no common space in this model; or beside words that the model does not
                know, the sentence has only such as "a" and "the", which all films fit alike.
        """
        targets = list(TARGETS) if target is None and self._table is _JOINT else [target]
        pairs = [self._pair("words", one) for one in targets]
        with self._lock:
            self._check_words(text)
            x_D = embed_text(self.model, self.model.tokenizer, text, space=pairs[0][0]).numpy()
        return Query({name: x_D for _, name in pairs}, name="text")

    def sound(self, path: str | Path, *, at: float | None = None, target: Target | None = None) -> Query:
        """A sound file, or the sound of a film.

        Args:
            at: seconds in the file, the middle of what is heard; None: windows all over it, averaged.
            target: what it is compared with: the sound of windows (None, too), or their picture.

        Raises:
            MediaError: it cannot be decoded, or is silent.
        """
        return self._of_file("sound", self._clip(path, "audio", at), target, "audio", at)

    def film(self, path: str | Path, at: float | None = None, *, target: Target | None = None) -> Query:
        """The picture of a film, compared with that of windows (None, too), or with their sound; see `sound`."""
        return self._of_file("film", self._clip(path, "video", at), target, "video", at)

    def picture(self, path: str | Path, *, target: Target | None = None) -> Query:
        """A picture, as a film in which nothing moves; see `film`."""
        return self._of_file("film", Clip(Path(path), kind="image"), target, "image")

    def like(self, row: int, *, target: Target | None = None) -> Query:
        """More like a window of the index: its picture (or, without one, its sound), without the model.

        Raises:
            SearchError: it has none of the target.
        """
        own = self._like(row)
        for one in [target] if target else TARGETS:
            kind = {"picture": "film", "sound": "sound"}[one]
            _, name = self._table[kind, one]
            if name in own:
                return Query({name: own[name]}, name="like")
        raise SearchError(f"row {row}: has no {target}")

    def of_frames(self, frames: np.ndarray | Tensor, *, target: Target | None = None) -> Query:
        """Windows of a film that are decoded already: (V, T, S, S, 3) or one of them, averaged; uint8, or float in [-1,
        1]."""
        return self._of_tensor("film", torch.as_tensor(frames), target)

    def of_sound(self, sound: np.ndarray | Tensor, *, target: Target | None = None) -> Query:
        """Windows of a sound that are decoded already: float (V, L) or one of them, averaged without the silent
        ones."""
        x = torch.as_tensor(sound)
        x = x if x.ndim > 1 else x[None]
        heard = x.abs().amax(tuple(range(1, x.ndim))) > SILENCE
        if not heard.any():
            raise SearchError("sound: is silent, or no number, so it is like no other sound")
        return self._of_tensor("sound", x[heard], target)

    def _check_words(self, text: str) -> None:
        if self.model.tokenizer is None:
            return
        tokenizer, words, text = self.model.tokenizer, self.model.config.input.words, whole_characters(text)
        unknown, known = tokenizer.unknown_words(text, words)[0], tokenizer.known_words(text, words)
        if not known:
            raise TextError(f"text: {text!r} holds no word{' that the model knows' if unknown else ''}")
        if unknown and all(word.lower().strip(string.punctuation) in STOP_WORDS for word in known):
            raise SearchError(
                f"text: {text!r}: the model does not know {_listed(unknown)}, and {_listed(known)} alone says nothing"
            )

    def _pair(self, kind: str, target: Target | None) -> tuple[str, str]:
        found = self._table.get((kind, target or _LIKE[kind]))  # type: ignore[arg-type]
        if found is None:
            raise SearchError(
                "words: this model has no common space of words and sounds; ask with a sound, or for pictures"
            )
        return found

    def _clip(self, path: str | Path, kind: str, at: float | None) -> Clip:
        if at is None:
            return Clip(Path(path), kind=kind)
        half = self.model.config.input.seconds / 2
        return Clip(Path(path), max(0.0, at - half), max(0.0, at - half) + 2 * half, kind=kind)

    def _of_file(self, kind: str, clip: Clip, target: Target | None, name: str, at: float | None = None) -> Query:
        space, found = self._pair(kind, target)
        windows = 1 if clip.start is not None or clip.kind == "image" else _WINDOWS
        settings: dict[str, Any] = {"space": space, "windows": windows, "workers": self.workers}
        modality = "audio" if kind == "sound" else "video"
        with self._lock:
            try:
                x_D = embed_media(self.model, clip, modality, **settings).numpy()  # type: ignore[arg-type]
            except MediaError as error:
                if error.field != "start" or at is None:
                    raise
                _, behind, length = error.reason.partition("behind the end")  # the window begins before what was asked
                raise MediaError(clip.video, f"@{at:g}", f"is {behind}{length}") from error
        if not np.isfinite(x_D).all():
            raise MediaError(clip.video, "embedding", "the model gives values that are not finite")
        return Query({found: x_D}, name=name)

    def _of_tensor(self, kind: str, x: Tensor, target: Target | None) -> Query:
        space, found = self._pair(kind, target)
        modality = _MODALITY[kind]
        with self._lock:
            spec = self.model.config.input
            shape = (spec.frames, spec.size, spec.size, 3) if modality == "video" else (spec.samples,)
            x = x if x.ndim > len(shape) else x[None]
            if tuple(x.shape[1:]) != shape or not len(x) or (x.dtype == torch.uint8) != (modality == "video"):
                what = "uint8" if modality == "video" else "floating point"
                raise SearchError(f"{kind}: expected windows of {shape}, {what}, got {tuple(x.shape)}, {x.dtype}")
            parts = embed_inputs(self.model, modality, x if modality == "video" else x.float(), space)
        x_D = F.normalize(parts.mean(0), dim=-1).numpy()
        if not np.isfinite(x_D).all():
            raise SearchError(f"{kind}: the model gives values that are not finite")
        return Query({found: x_D}, name={"film": "video", "sound": "audio"}[kind])
