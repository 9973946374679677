"""From groups of windows to their vectors: read, then through the model, group by group in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vatt.data.config import DataConfig
from vatt.inference.api import VATT
from vatt.search.format import vector_sets
from vatt.search.model import gathered, vectors_of, widths_of
from vatt.search.windows import Fault, ReadGroups, Seen, Stretch, read_groups


@dataclass
class Done:
    """A stretch: its windows that have a vector, and what is wrong with others.

    Attributes:
        good: numbers of the windows, counted from the first of the stretch.
        vectors: by vector set float16 (V, D), zero where ``has`` is 0.
    """

    stretch: Stretch
    good: list[int]
    vectors: dict[str, np.ndarray]
    has: dict[str, np.ndarray]
    faults: list[Fault] = field(default_factory=list)
    sha256: str = ""


def embed_groups(model: VATT, work: ReadGroups, config: DataConfig, processes: int = 1) -> Iterator[list[Done]]:
    """The stretches of each group, in order. ``processes``: see `read_groups`."""
    for group, (rows, seen) in zip(work.groups, read_groups(work, config, processes), strict=True):
        yield _embed(model, work, group, rows, seen)


def _embed(
    model: VATT, work: ReadGroups, group: tuple[Stretch, ...], rows: dict[str, Tensor], seen: list[Seen]
) -> list[Done]:
    at = [start for one in seen if one.picture for start in one.at]
    sounds, window = list[int](), 0
    for stretch, one in zip(group, seen, strict=True):
        sounds += [window + number for number, heard in zip(one.good, one.heard, strict=True) if heard]
        window += len(stretch.starts)
    found: dict[str, np.ndarray] = {}
    if at:
        found |= vectors_of(model, "video", gathered(rows["frames"], at, work.spec.frames))
    if sounds:
        found |= vectors_of(model, "audio", rows["audio"][torch.tensor(sounds)])
    del rows
    done, taken = [], {"video": 0, "audio": 0}
    for stretch, one in zip(group, seen, strict=True):
        done.append(_of_stretch(model, work, stretch, one, found, taken))
    return done


def _of_stretch(
    model: VATT, work: ReadGroups, stretch: Stretch, seen: Seen, found: dict[str, np.ndarray], taken: dict[str, int]
) -> Done:
    """Takes the rows of a stretch out of those of its group."""
    count = len(seen.good)
    of = {"video": np.full(count, seen.picture), "audio": np.array(seen.heard, bool)}
    vectors, has = {}, {}
    widths = widths_of(model.config)
    for name, (modality, _) in vector_sets(model.config).items():
        rows = int(of[modality].sum())
        x_VD = np.zeros((count, widths[name]), np.float32)
        if rows:
            x_VD[of[modality]] = found[name][taken[modality] : taken[modality] + rows]
        vectors[name], has[name] = x_VD, of[modality].copy()
    for modality, mask in of.items():
        taken[modality] += int(mask.sum())
    faults = list(seen.faults)
    finite = np.all([np.isfinite(x_VD).all(1) for x_VD in vectors.values()], axis=0)
    for number, fine in zip(seen.good, finite.tolist(), strict=True):
        if not fine:
            at, reason = stretch.starts[number] / work.spec.fps, "the model gives values that are not finite"
            faults.append({"start": at, "field": "embedding", "reason": reason})
    keep = finite & np.any(list(has.values()), axis=0)  # a silent window of a sound file has nothing to be found by
    return Done(
        stretch,
        [number for number, kept in zip(seen.good, keep.tolist(), strict=True) if kept],
        {name: x_VD[keep].astype(np.float16) for name, x_VD in vectors.items()},
        {name: mask[keep].astype(np.uint8) for name, mask in has.items()},
        faults,
        seen.sha256,
    )
