"""Whether clips come as fast as the GPUs take them: cores that decode, and the storage of a node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vatt.analysis.plan.compute import read_results
from vatt.analysis.plan.request import Assumption, Request
from vatt.data.shards.format import INDEX, ShardError, read_index
from vatt.files import TREE
from vatt.models.config import VATTConfig
from vatt.results import ResultsError, Row

# What `python -m bench decode` measured: clips a second of one core.
DECODING = TREE / "bench" / "results" / "decode.csv"
_FILM = "640x360@30"  # the case that a plan takes, unless it is told otherwise
_LEAD = 1.0  # seconds of a packed piece that are read in front of a window, at most: it has a keyframe a second


@dataclass(frozen=True)
class Supply:
    """Clips a second for all GPUs that decoding and storage give; None where that is not known.

    ``per_core``: clips a second of a core; ``clip_bytes``: read for one clip.
    """

    decoding: float | None
    storage: float | None
    per_core: float | None
    clip_bytes: float | None
    assumptions: tuple[Assumption, ...]

    def seconds(self, clips: int) -> dict[str, float]:
        """How long each takes for so many clips, where it is known."""
        rates = {"decoding": self.decoding, "storage": self.storage}
        return {name: clips / rate for name, rate in rates.items() if rate is not None}


def supply(request: Request, config: VATTConfig) -> Supply:
    """What feeds the run.

    Raises:
        ShardError: ``data`` holds no index that can be read.
    """
    found, missing = [], []
    per_core, source = request.clips_per_core, "given by --clips-per-core"
    if per_core is None and (row := measured_decoding(request, config)) is not None:
        per_core, source = float(row["rate"]), f"measured (row of {row['time']}: commit {row['commit']})"
        where = f"{row['case']}, {row['provider']}; one core of {row['device']}; change it by --clips-per-core"
        found.append(Assumption("decoding", f"{per_core:g} clips/s a core ({where})", source))
    elif per_core is not None:
        found.append(Assumption("decoding", f"{per_core:g} clips/s a core", source))
    else:
        missing.append("decoding (--clips-per-core)")
    if per_core is not None:
        found.append(request.assumption("cores_per_gpu", "cores of a GPU that decode", f"{request.cores_per_gpu:g}"))
    clip_bytes = _clip_bytes(request, config, found)
    if request.storage_mbps is None or clip_bytes is None:
        missing.append("storage (--storage-mbps, and --data or --clip-mb)")
    else:
        found.append(request.assumption("storage_mbps", "storage", f"{request.storage_mbps:g} MB/s a node"))
    if missing:
        found.append(Assumption("not counted", f"{', '.join(missing)}", "not known"))
    nodes = request.links().nodes
    return Supply(
        None if per_core is None else per_core * request.cores_per_gpu * request.gpus,
        None if request.storage_mbps is None or clip_bytes is None else 1e6 * request.storage_mbps * nodes / clip_bytes,
        per_core,
        clip_bytes,
        tuple(found),
    )


def _clip_bytes(request: Request, config: VATTConfig, found: list[Assumption]) -> float | None:
    if request.clip_mb is not None:
        found.append(Assumption("bytes of a clip", f"{request.clip_mb:g} MB", "given by --clip-mb"))
        return 1e6 * request.clip_mb
    if request.data is None:
        return None
    path = request.data / INDEX
    try:
        index = read_index(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror or error}") from error
    if index.seconds <= 0:
        raise ShardError(f"{path}: holds no seconds of media; give --clip-mb")
    rate, read = index.bytes / index.seconds, config.input.seconds + _LEAD
    text = (
        f"{rate * read / 1e6:.3f} MB: {read:g} s of {rate / 1e6:.3f} MB/s, a window and the way to it from a keyframe"
    )
    found.append(Assumption("bytes of a clip", text, f"of {path}"))
    return rate * read


def measured_decoding(request: Request, config: VATTConfig) -> Row | None:
    """The newest row of this kind of reading in the committed results, or None."""
    try:
        rows = read_results(request.decoding) if request.decoding is not None else []
    except ResultsError:  # of an older kind
        return None
    kind = "ours, shards" if request.data is not None else "ours, files"
    provider = f"{kind}, for augment_on=gpu" if request.augment_on == "gpu" else kind
    case = f"{_FILM} to {config.input.size}"
    fitting = [row for row in rows if row["op"] == "decode" and row["provider"] == provider and row["rate"]]
    fitting = [row for row in fitting if row["case"] == case and row["unit"] == "clips/s"]
    return max(fitting, key=lambda row: row["time"], default=None)


def default_decoding() -> Path | None:
    """The committed file; an installed package has none."""
    return DECODING if DECODING.exists() else None
