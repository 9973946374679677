"""The library: models of a folder that embed and classify files.

`VATT` and `Classifier` are the modules of `vatt.models` with what needs files: they load themselves, decode videos,
sounds and pictures, and split sentences into words. They train as their bases do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from torch import Tensor

from vatt import models
from vatt.data.samples import Views
from vatt.data.tokenizer import FILE, TextError, Tokenizer
from vatt.hub.remote import local_model
from vatt.inference.classify import Ranking, classify_files
from vatt.inference.embed import File, embed_media, embed_text
from vatt.models.config import VATTConfig
from vatt.weights import folder as model_folders
from vatt.weights.folder import PretrainedError, load_model, model_folder, read_config

Media = File | Tensor | Sequence[File] | Sequence[Tensor]


class VATT(models.VATT):
    """A pretraining model that embeds videos, sounds and sentences in the common spaces.

    Attributes:
        tokenizer: of the words that the model knows; None where its folder has no tokenizer.json, and in a model that
            was not loaded. `embed_text` needs it.
    """

    tokenizer: Tokenizer | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        backend: str = "auto",
        *,
        vocabulary: str | Path | None = None,
        revision: str | None = None,
    ) -> Self:
        """The model in a folder that a run, or ``vatt convert``, has left; on the CPU, in evaluation mode.

        Args:
            folder: or, as a string, OWNER/NAME or OWNER/NAME@REVISION of the hub, where no folder has that name; see
                `vatt.hub.remote.local_model`.
            vocabulary: the words, if the folder has no tokenizer.json: one per line, or BERT's ``vocab.txt``.
            revision: of a name on the hub: a branch, a tag or a commit, in place of @REVISION.

        Raises:
            PretrainedError: see `vatt.weights.folder.load_pretrained`; also for the folder of a classifier.
            TextError: the words cannot be read, or are more than the model has vectors for.
            HubError: the hub has no such model, or none that may be used.
        """
        folder = local_model(folder, revision)
        if not isinstance(read_config(model_folder(folder)), VATTConfig):
            raise PretrainedError(
                f"{folder}: holds a Classifier, which knows classes and no common space; name a pretraining model, or "
                "load this one by Classifier.from_pretrained"
            )
        model = load_model(folder, lambda config: cls(config, backend))
        model.tokenizer = find_tokenizer(model_folder(folder), vocabulary, model.config)
        return model

    def embed_video(
        self, videos: Media, *, space: str = "text", windows: int = 4, batch_size: int = 8, workers: int = 0
    ) -> Tensor:
        """Embeddings of videos, L2-normalised, in evaluation mode and without gradients; float32 on the CPU.

        Args:
            videos: a path (or `Clip`, or picture), or a tensor (T, H, W, 3) or (B, T, H, W, 3) of the size that the
                model reads, uint8 or floating point in [-1, 1]; or a list of paths or of tensors.
            space: "text" (compare with `embed_text`), "audio" (with `embed_audio`), or "features": the pooled output
                of the backbone, not normalised.
            windows: of a file, spread evenly over it; their embeddings are averaged, then normalised (paper: 4).
            batch_size: items in the model at once, each with all of its windows.
            workers: processes that decode files; 0 decodes here.

        Returns:
            (D,) of one item, (B, D) of several.

        Raises:
            MediaError: a file cannot be decoded. SpaceError: no such space. TypeError, ValueError: an item or a tensor
            that does not fit.
        """
        return embed_media(self, videos, "video", space=space, windows=windows, batch_size=batch_size, workers=workers)

    def embed_audio(
        self,
        sounds: Media,
        *,
        space: str = "video",
        windows: int = 4,
        batch_size: int = 8,
        workers: int = 0,
        sample_rate: int | None = None,
    ) -> Tensor:
        """As `embed_video`, of sound: paths of sound files or videos, or tensors (L,) or (B, L) in [-1, 1].

        Args:
            space: "video" (compare with ``embed_video(..., space="audio")``), "text" with a joint head, or "features".
            sample_rate: of tensors, in Hz; where it is given it must be the model's.

        Silence (nothing above -80 dBFS) has no place in a common space: a file that is silent wherever it is read is a
        MediaError, a silent tensor a ValueError. Of a file with sound the silent windows are left out of the mean. As
        "features" silence is a sound like any other.
        """
        return embed_media(
            self,
            sounds,
            "audio",
            space=space,
            windows=windows,
            batch_size=batch_size,
            workers=workers,
            sample_rate=sample_rate,
        )

    def embed_text(self, sentences: str | Sequence[str], *, space: str = "video", batch_size: int = 256) -> Tensor:
        """As `embed_video`, of sentences: at most ``config.input.words`` words of each count.

        Args:
            space: "video" (compare with `embed_video`), "audio" with a joint head, or "features".

        Raises:
            TextError: the model has no tokenizer, or a sentence has no word that it knows. Unknown words beside others
            are a warning.
        """
        return embed_text(self, self.tokenizer, sentences, space=space, batch_size=batch_size)


class Classifier(models.Classifier):
    """A fine-tuned model that names what it sees or hears."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, backend: str = "auto", *, revision: str | None = None) -> Self:
        """The fine-tuned model in a folder that a run, or ``vatt convert``, has left; on the CPU, in evaluation mode.

        Args:
            folder: or a name on the hub, as `VATT.from_pretrained` takes it; ``revision`` likewise.

        Raises:
            PretrainedError: see `vatt.weights.folder.load_pretrained`; also for the folder of a pretraining model.
            HubError: the hub has no such model, or none that may be used.
        """
        folder = local_model(folder, revision)
        if isinstance(read_config(model_folder(folder)), VATTConfig):
            raise PretrainedError(
                f"{folder}: holds a VATT, which has no classes; fine-tune it first "
                "(train/finetune.py --init), or embed with it (VATT.from_pretrained)"
            )
        return load_model(folder, lambda config: cls.from_config(config, backend))

    def classify(
        self, files: File | Sequence[File], top: int = 5, *, views: Views | None = None
    ) -> Ranking | list[Ranking]:
        """The ``top`` most probable classes of a video, sound or picture, the best first: (name, probability).

        Args:
            files: a path (or `Clip`), or a list of them.
            views: windows and crops, whose logits are averaged. None: as in the evaluation, 4 windows with 3 crops of a
                video, 4 windows of a sound, the middle of a picture.

        Returns:
            A list for one file, a list of such lists for a list of files. A class without a name has its number.

        Raises:
            MediaError: a file cannot be decoded. ValueError: ``top`` is below 1.
        """
        return classify_files(self, files, top=top, views=views)


def load_pretrained(folder: str | Path, backend: str = "auto", *, revision: str | None = None) -> VATT | Classifier:
    """The model in a folder, whichever it is, with its tokenizer; on the CPU in float32, in evaluation mode.

    Args:
        folder: as `save_pretrained` writes it; the folder of a whole run is taken too (its ``model/``), and a name on
            the hub, as by `VATT.from_pretrained`.
        backend: of all operations, see `vatt.kernels`.
        revision: as of `VATT.from_pretrained`.

    Raises:
        HubError: the hub has no such model, or none that may be used.
        PretrainedError: a file is missing or unreadable, of another model, or holds a weight that is not finite.
        TextError: its tokenizer.json cannot be read, or has more words than the model has vectors for.
    """
    folder = local_model(folder, revision)
    config = read_config(model_folder(folder))
    kind = VATT if isinstance(config, VATTConfig) else Classifier
    return kind.from_pretrained(folder, backend)


def save_pretrained(
    model: models.VATT | models.Classifier, folder: str | Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Writes a model, and the tokenizer that it has, into ``folder``, which is made if it is not there.

    Args:
        state: weights in place of the model's own, by the names of its ``state_dict``.

    Raises:
        ValueError: a classifier whose configuration is not known, since `Classifier.from_config` did not make it.
    """
    tokenizer = model.tokenizer if isinstance(model, VATT) else None
    model_folders.save_pretrained(model, folder, state, tokenizer)


def find_tokenizer(folder: Path, vocabulary: str | Path | None, config: VATTConfig) -> Tokenizer | None:
    """The tokenizer of a model.

    Args:
        folder: that of the model; its tokenizer.json is used where ``vocabulary`` is None.
        vocabulary: one word per line, BERT's ``vocab.txt``, or a ``tokenizer.json``.

    Returns:
        None if nothing is named and the folder has no tokenizer.json.

    Raises:
        TextError: the file cannot be read, or names more words than the model has word vectors.
    """
    path = folder / FILE if vocabulary is None else Path(vocabulary)
    if vocabulary is None and not path.is_file():
        return None
    found = Tokenizer.load(path.parent) if path.name == FILE else Tokenizer.from_file(path)
    rows = config.vocabulary
    if found.vocab_size > rows:
        raise TextError(f"{path}: has {found.vocab_size} words, but the model in {folder} has {rows} word vectors")
    return found
