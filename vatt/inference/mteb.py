"""A model on the public boards of MTEB (``mteb`` 2.26): retrieval, classification, clustering of video, sound and text.

`MTEBModel` is what ``mteb.evaluate`` takes. Media are decoded here, as everywhere in this project, so that within
`media_as_files` neither torchcodec nor torchaudio is needed. ``mteb`` and ``datasets`` are imported when they are used:
the extra ``mteb``.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.manifest import read_clips
from vatt.errors import UserError
from vatt.extras import install
from vatt.hub.remote import local_model
from vatt.inference.api import VATT
from vatt.inference.embed import embed_clips, embed_sentences
from vatt.inference.spaces import FEATURES, SpaceError, spaces_of
from vatt.models.config import VATTConfig
from vatt.weights.folder import model_folder

# The boards of the data sets that the paper reports on, as far as mteb has them in a form for a model of two spaces
# (video with text, video with sound): both directions of retrieval, classes by features, classes by their names.
BOARDS = (
    *("MSRVTTT2V", "MSRVTTV2T", "MSRVTTA2V", "MSRVTTV2A"),
    *("YouCook2T2VRetrieval", "YouCook2V2TRetrieval", "YouCook2A2VRetrieval", "YouCook2V2ARetrieval"),
    *("UCF101VideoClassification", "UCF101VideoZeroShotClassification"),
    *("HMDB51Classification", "HMDB51ZeroShot", "ESC50"),
)
_ORDER = ("text", "video", "image", "audio")  # of the modalities of an item
_BYTES = 2**20  # of the weights read at once
_log = logging.getLogger(__name__)


class MTEBError(UserError, ValueError):
    """A task that cannot be evaluated, or a package that is missing. The message names it."""


def check_installed() -> None:
    """Raises MTEBError: the packages are missing."""
    for name in ("mteb", "datasets"):
        if find_spec(name) is None:
            raise MTEBError(f"vatt mteb: the package {name} is not installed: {install('mteb')}")


def parts_of(config: VATTConfig, own: Iterable[str], other: Iterable[str], task: str = "") -> list[tuple[str, str]]:
    """What of an item is embedded, and in which space: pairs of its modality and a name of `vatt.inference.spaces`.

    Where items of other modalities are compared with it, that is the first space which both sides have a modality in:
    of text and video, then of video and sound; what has no place there is left out, on both sides alike. A joint head
    has one space for all. Without another side, or with the same, it is the features of every modality.

    Args:
        own, other: modalities of both sides, of "text", "video", "image", "audio".

    Raises:
        SpaceError: the model has no such space.
    """
    ours, theirs = set(own), set(other)
    names = [name for name in _ORDER if name in ours]
    if not theirs or theirs == ours:
        return [(name, FEATURES) for name in names]
    seen = {"video": "text", "image": "text"}
    spaces = [{"text": "video", **seen}, {"audio": "video", "video": "audio", "image": "audio"}]
    if config.head.kind != "fac":
        spaces = [{"text": "video", **seen, "audio": "video"}]
    for space in spaces:
        if space.keys() & ours and space.keys() & theirs:
            return [(name, space[name]) for name in names if name in space]
    sides = f"{' and '.join(names)} with {' and '.join(name for name in _ORDER if name in theirs)}"
    raise SpaceError(f"{task or 'task'}: {config.name} has no space in which it could compare {sides}")


@contextmanager
def media_as_files() -> Iterator[None]:
    """Within it ``datasets`` hands videos and sounds on as they are stored, by path and bytes, and decodes none.

    ``mteb`` looks at rows while it loads and arranges a data set; each look would decode a film that nobody asked for,
    and fail where torchcodec is missing, or is one for another PyTorch or FFmpeg.
    """
    import datasets

    before = [(kind, kind.decode_example, kind.encode_example) for kind in (datasets.Video, datasets.Audio)]

    def stored(self: Any, value: Any, token_per_repo_id: Any = None) -> Any:
        return value

    def storing(encode: Any) -> Any:
        def keep(self: Any, value: Any) -> Any:
            if isinstance(value, dict) and value.keys() == {"path", "bytes"}:
                return value
            return encode(self, value)

        return keep

    try:
        for kind, _, encode in before:
            kind.decode_example, kind.encode_example = stored, storing(encode)
        yield
    finally:
        for kind, decode, encode in before:
            kind.decode_example, kind.encode_example = decode, encode


class MTEBModel:
    """A `VATT` as ``mteb`` wants a model (its EncoderProtocol).

    Args:
        model: where its parameters are, it computes.
        name: on the board: OWNER/NAME.
        revision: of its weights.
        windows: of a file, whose embeddings are averaged.
        workers: decoding processes.

    Attributes:
        faults: what could not be embedded, a line each: its embedding is a random one, so that it is found by chance.
    """

    def __init__(self, model: VATT, name: str, revision: str, windows: int = 4, workers: int = 2) -> None:
        self.model, self.name, self.revision = model, name, revision
        self.windows, self.workers = windows, workers
        self.faults: list[str] = []
        self._told: set[str] = set()
        self._random = torch.Generator().manual_seed(0)

    @classmethod
    def from_pretrained(cls, folder: str | Path, name: str | None = None, **options: Any) -> MTEBModel:
        """The model of a folder or of the hub, with a checksum of its weights as revision.

        Args:
            folder: see `VATT.from_pretrained`, also for what is raised.
            name: on the board; of a model of the hub its name there, else local/ and the name of its folder.
        """
        place = local_model(folder)
        path = model_folder(place)
        model = VATT.from_pretrained(place)
        digest = hashlib.sha256()
        with (path / "model.safetensors").open("rb") as file:
            while part := file.read(_BYTES):
                digest.update(part)
        if place != Path(folder):
            name = name or str(folder).partition("@")[0]
        own = place.resolve()
        own = own.parent if own.name == "model" else own
        return cls(model, name or f"local/{own.name}", digest.hexdigest()[:12], **options)

    @property
    def mteb_model_meta(self) -> Any:
        """What the board shows of the model: an ``mteb.models.ModelMeta``."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        weights = list(self.model.parameters())
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=self.revision,
            release_date=None,
            languages=None,
            n_parameters=sum(weight.numel() for weight in weights),
            memory_usage_mb=sum(weight.numel() * weight.element_size() for weight in weights) / 2**20,
            max_tokens=self.model.config.input.words,
            embed_dim=sorted({width for spaces in spaces_of(self.model.config).values() for width in spaces.values()}),
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=["text", "image", "audio", "video"],
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 8,
        **others: Any,
    ) -> np.ndarray:
        """Embeds the items of a data set: float32 (N, D). In a common space the modalities of an item are averaged,
        features are put side by side.

        Args:
            inputs: a DataLoader over a ``datasets.Dataset`` with columns text, video, audio or image, or one whose
                batches have these names.
            task_metadata, prompt_type: say with what the items are compared.

        Raises:
            SpaceError: see `parts_of`. MTEBError: a column that holds something else than media.
        """
        items = _items(inputs)
        own = [name for name in _ORDER if name in items.column_names]
        other = _others(task_metadata, prompt_type, own)
        parts = parts_of(self.model.config, own, other, task_metadata.name)
        if left_out := set(own) - {name for name, _ in parts}:
            self._tell(f"{task_metadata.name}: {', '.join(sorted(left_out))} has no place in the space of this task")
        x = [self._embed(items, name, space, batch_size, task_metadata.name) for name, space in parts]
        unit = [F.normalize(part_ND, dim=-1) for part_ND in x]
        features = parts[0][1] == FEATURES
        x_ND = torch.cat(unit, dim=-1) if features else F.normalize(torch.stack(unit).sum(0), dim=-1)
        # Zeros, to which nothing is similar, become NaN in some of mteb's measures; a vector that all share would make
        # a damaged video find its own damaged sound.
        nothing_N = (x_ND == 0).all(1)
        drawn_MD = torch.randn(int(nothing_N.sum()), x_ND.shape[1], generator=self._random)
        x_ND[nothing_N] = F.normalize(drawn_MD, dim=-1)
        return x_ND.numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs, (N, M)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of pairs, (N,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)

    def _embed(self, items: Any, name: str, space: str, batch_size: int, task: str) -> Tensor:
        modality = "video" if name == "image" else name
        found_ND = torch.zeros(len(items), spaces_of(self.model.config)[modality][space])
        if name == "text":
            sentences = ["" if text is None else str(text) for text in items["text"]]
            for first in range(0, len(sentences), 256):
                numbers = range(first, min(first + 256, len(sentences)))
                part = [sentences[number] for number in numbers]
                done = embed_sentences(self.model, self.model.tokenizer, part, space=space, numbers=numbers)
                found_ND[done.numbers] = done.x_BD
                self._note(done.skipped, task)
            return found_ND
        stored = items.select_columns([name])
        if getattr(stored.features[name], "decode", False):
            stored = stored.cast_column(name, _undecoded(name))
        step = 8 * batch_size
        for first in range(0, len(stored), step):  # bytes become files for a while, a few at a time
            with tempfile.TemporaryDirectory(prefix="vatt-mteb-") as folder:
                clips: dict[int, Clip] = {}
                for number in range(first, min(first + step, len(stored))):
                    value = stored[number][name]
                    try:
                        clips[number] = _clip(value, name, Path(folder), number, task)
                    except MediaError as error:
                        self._note([{"index": number, "field": name, "reason": error.reason}], task)
                kind: Any = modality
                options: dict[str, Any] = {"windows": self.windows, "config": DataConfig(workers=self.workers)}
                own = list(clips)
                chosen = list(clips.values())
                for done in embed_clips(self.model, chosen, kind, space=space, batch_size=batch_size, **options):
                    found_ND[[own[number] for number in done.numbers]] = done.x_BD
                    self._note(done.skipped, task, own)
        return found_ND

    def _note(self, skipped: Sequence[Any], task: str, numbers: Sequence[int] | None = None) -> None:
        for record in skipped:
            number = record["index"] if numbers is None else numbers[record["index"]]
            self.faults.append(f"{task}, item {number}: {record['field']}: {record['reason']}")

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("%s", what)


def _items(inputs: Any) -> Any:
    """The items of a DataLoader as a ``datasets.Dataset``; of a data set of another library what its batches hold."""
    if hasattr(inputs.dataset, "column_names"):
        return inputs.dataset
    import datasets

    columns: dict[str, list[Any]] = {}
    for batch in inputs:
        for name in batch.keys() & set(_ORDER):
            columns.setdefault(name, []).extend(batch[name])
    return datasets.Dataset.from_dict(columns)


def _others(task_metadata: Any, prompt_type: Any, own: Sequence[str]) -> set[str]:
    """The modalities of what items are compared with; none where they are classified, or grouped."""
    letters = {"t": "text", "v": "video", "i": "image", "a": "audio"}
    sides = (task_metadata.category or "").split("2")
    left, right = ({letters[letter] for letter in side if letter in letters} for side in (sides[0], sides[-1]))
    there = set(task_metadata.modalities)
    if left | right == there:  # the category of a few tasks says something else
        for side, other in ((left, right), (right, left)):  # both sides of a pair may be called documents
            if set(own) == side:
                return other
    if prompt_type is not None and task_metadata.category:
        return right if prompt_type.value == "query" else left
    return there - set(own)


def _undecoded(name: str) -> Any:
    import datasets

    return {"video": datasets.Video, "audio": datasets.Audio, "image": datasets.Image}[name](decode=False)


def _clip(stored: Any, kind: str, folder: Path, number: int, task: str) -> Clip:
    """An item's own file, or one made of its bytes. Raises MediaError: it has none. MTEBError: it is no file."""
    if stored is None or (isinstance(stored, dict) and not (stored.get("bytes") or stored.get("path"))):
        raise MediaError("", kind, "is missing")
    if not isinstance(stored, dict):
        raise MTEBError(f"{task}, item {number}: its {kind} is neither a file nor the bytes of one")
    place, content = str(stored.get("path") or ""), stored.get("bytes")
    if not content and "://" in place:
        try:
            with fsspec.open(place, "rb") as file:
                content = file.read()
        except Exception as error:  # of any kind of store
            raise MediaError(place, kind, f"{place}: {error}") from error
    path = Path(place)
    if content:
        path = folder / f"{number}{path.suffix[:16]}"
        path.write_bytes(content)
    return Clip(path, kind=kind)


def _unit(x: Any) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(np.asarray(x), dtype=torch.float32)), dim=-1)


def tasks_of(manifest: str | Path, split: str = "val") -> list[Any]:
    """Tasks of a data set of one's own, as ``mteb`` knows them: text and video find each other, sound finds its video,
    and, where there are labels and a split "train", classes by features.

    Captions of a video count once, by the first; videos of equal captions are all right.

    Raises:
        ManifestError: the manifest cannot be read. MTEBError: it has no clips of that split, or parts of files.
    """
    from vatt.inference.mteb_tasks import classification, retrieval

    clips = read_clips(manifest).clips
    chosen = [clip for clip in clips if clip.split == split]
    if not chosen:
        raise MTEBError(f"{manifest}: has no clip of the split {split!r}")
    train = [clip for clip in clips if clip.split == "train"]
    if any(clip.packed or clip.start is not None for clip in [*chosen, *train]):
        raise MTEBError(f"{manifest}: mteb takes whole files; parts of files and packed clips cannot be handed to it")
    tasks = [retrieval("LocalA2V", "audio", "video", chosen)]
    if all(clip.captions for clip in chosen):
        tasks += [retrieval("LocalT2V", "text", "video", chosen), retrieval("LocalV2T", "video", "text", chosen)]
    if train and all(clip.label for clip in [*train, *chosen]):
        tasks += [classification("LocalVideoClassification", "video", train, chosen)]
        tasks += [classification("LocalAudioClassification", "audio", train, chosen)]
    return tasks
