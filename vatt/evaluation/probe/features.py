"""Features of clips from a frozen backbone, kept in a file so that a second probe decodes nothing.

Shapes: N clips, V views of a clip, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.evaluation_loader import view_batches
from vatt.data.samples import Modality, Views
from vatt.evaluation import evaluating
from vatt.evaluation.probe.protocol import ProbeError
from vatt.files import appearing
from vatt.json_files import parse_json
from vatt.models.classifier import Classifier
from vatt.models.vatt import VATT
from vatt.weights.tensors import TensorFile, Tensors, write_tensors


@dataclass
class Features:
    """Pooled features of the clips that could be read.

    Attributes:
        numbers: of the clips in the list that they come from, N.
        x_NVD: float32, on the CPU.
        skipped: a record {file, field, reason, index} of each clip that could not be read.
    """

    numbers: list[int]
    x_NVD: Tensor
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        """The features of several ranks in the order of the numbers."""
        numbers = torch.tensor([number for part in parts for number in part.numbers], dtype=torch.int64)
        order = numbers.argsort()  # of rank::ranks, or with a clip that was read at the second try
        whole = [part.x_NVD for part in parts if len(part.numbers)] or [parts[0].x_NVD]
        skipped = sorted((record for part in parts for record in part.skipped), key=lambda record: record["index"])
        return cls(numbers[order].tolist(), torch.cat(whole)[order], skipped)

    def save(self, path: Path) -> None:
        """Writes one file with the features and what was skipped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"x": self.x_NVD.contiguous(), "numbers": torch.tensor(self.numbers, dtype=torch.int64)}
        with appearing(path) as partly:
            write_tensors(partly, Tensors.of(tensors), {"skipped": json.dumps(self.skipped)})

    @classmethod
    def load(cls, path: Path) -> Features | None:
        """What `save` wrote, or None if it is not there or cannot be read."""
        try:
            stored = TensorFile(path)
            return cls(
                stored["numbers"].tolist(),
                stored["x"],
                parse_json(stored.metadata["skipped"], path, list, surrogates=True),
            )
        except (KeyError, ValueError, TypeError):
            return None


def extract(
    model: VATT | Classifier,
    clips: Sequence[Clip],
    modality: Modality,
    views: Views,
    config: DataConfig,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    numbers: Sequence[int] | None = None,
) -> Features:
    """Features of clips from the pooled output of the backbone, in evaluation mode.

    The paper trains its probe on augmented windows, decoded anew at every step; here each clip is read once, in
    ``views``, which are all samples of the training. That is what makes a probe a matter of seconds.

    Args:
        model: on ``device``. A classifier gives the features that its classification layer reads.
        numbers: which of the clips; None for all. A rank of several takes its own share.

    Raises:
        ProbeError: a classifier of the other modality, or a feature that is not finite; the message names the clip.
    """
    assert model.config is not None, "the model has no configuration"
    if isinstance(model, Classifier) and model.config.modality != modality:
        raise ProbeError(f"modality: the model reads {model.config.modality}, not {modality}")
    numbers = range(len(clips)) if numbers is None else numbers
    count = views.count(modality)
    done: list[int] = []
    skipped: list[dict[str, Any]] = []
    parts: list[Tensor] = []
    with evaluating(model):
        for batch in view_batches(clips, numbers, views, modality, model.config.input, config, batch_size=batch_size):
            skipped += batch["skipped"]
            if len(batch["index"]):
                pooled = _pooled(model, modality, batch["x"].to(device)).float().cpu()[batch["of_view"]]
                for number, row in zip(batch["index"].tolist(), pooled, strict=True):
                    if not torch.isfinite(row).all():
                        raise ProbeError(f"{clips[number].video}: the model gives features that are not finite")
                done += batch["index"].tolist()
                parts.append(pooled)
    return Features(done, torch.cat(parts) if parts else torch.empty(0, count, 0), skipped)


def _pooled(model: VATT | Classifier, modality: Modality, x: Tensor) -> Tensor:
    if isinstance(model, Classifier):
        return model.backbone(model.read(x))["features_pooled"]
    return model(**{modality: x})[f"{modality}/features_pooled"]


def fingerprint(
    weights: Path,
    clips: Sequence[Clip],
    modality: Modality,
    views: Views,
    random_init: int | None,
    precision: str = "torch.float32",
) -> str:
    """A name for the features of these clips from these weights: 16 hexadecimal digits that change with any of them."""
    digest = hashlib.sha256(weights.read_bytes())
    config = weights.with_name("config.json")
    digest.update(config.read_bytes())
    about: list[Any] = [modality, asdict(views), random_init, precision]
    about += [[*_content(clip), clip.start, clip.end] for clip in clips]
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:16]


def _content(clip: Clip) -> list[Any]:
    """What changes with the content of its media: of a file, its name and time are taken to tell."""
    if clip.packed is not None:
        return [clip.packed.digest]
    return [str(clip.video.resolve()), clip.video.stat().st_mtime_ns]
