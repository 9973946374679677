"""Zero-shot retrieval: sentences and sounds find the video that they belong to, without any further training.

Embeddings of held-out clips, similarities between two sets of them, ranks and recall (official utils/eval/measures.py).

Shapes: N clips, Q queries, V videos, D width, n windows of a video (window index fastest).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vatt.errors import UserError
from vatt.evaluation import evaluating
from vatt.models import VATT

Table = dict[str, "Retrieval"]
NAMES = {"text_to_video": "text -> video", "audio_to_video": "audio -> video", "chance": "chance"}
_PAIRS = {"text_to_video": ("text/tovid", "video/totxt"), "audio_to_video": ("audio/tovid", "video/toaud")}
_FOUND = 5  # clips that the results keep of each query


class EvaluationError(UserError, ValueError):
    """Embeddings from which nothing can be said: none at all, or values that are not finite."""


@dataclass(frozen=True)
class Retrieval:
    """Recall at 1, 5 and 10 as shares (0 to 1), the median rank (1 is best) and the number of queries."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    n: int


@dataclass
class Embeddings:
    """Embeddings of N clips in the common spaces, each (N, D) float32 on the CPU, averaged over the windows of a clip.

    Attributes:
        spaces: "video/totxt", "text/tovid", "video/toaud", "audio/tovid".
        has_text_N, has_audio_N: bool; clips without are searched, but are no query.
        captions, videos: the query and the file of each clip.
        ranges: start and end of each clip in its file, seconds or None.
    """

    spaces: dict[str, Tensor]
    has_text_N: Tensor
    has_audio_N: Tensor
    captions: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    ranges: list[tuple[float | None, float | None]] = field(default_factory=list)

    @classmethod
    def join(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """The embeddings of several ranks, one after the other. Raises EvaluationError: none of them has a clip."""
        if not parts:
            raise EvaluationError("evaluation: no clip could be read")
        spaces = {name: torch.cat([part.spaces[name] for part in parts]) for name in parts[0].spaces}
        text, audio = (torch.cat([getattr(part, name) for part in parts]) for name in ("has_text_N", "has_audio_N"))
        lists = {
            name: [item for part in parts for item in getattr(part, name)] for name in ("captions", "videos", "ranges")
        }
        return cls(spaces, text, audio, **lists)


def embed(model: VATT, batches: Iterable[dict[str, Any]], device: torch.device | str = "cpu") -> Embeddings:
    """Embeds the batches of ``vatt.data.eval_batches`` in evaluation mode, and puts the mode back.

    As the official evaluation does, the embeddings of a clip's windows are averaged first and normalised after.

    Raises:
        EvaluationError: the batches hold no clip.
    """
    found = embed_windows(model, batches, device)
    if found is None:
        raise EvaluationError("evaluation: no clip could be read")
    clips = len(found.captions)
    found.spaces = {name: x.unflatten(0, (clips, -1)).mean(1) for name, x in found.spaces.items()}
    return found


def embed_windows(
    model: VATT, batches: Iterable[dict[str, Any]], device: torch.device | str = "cpu"
) -> Embeddings | None:
    """As `embed`, but the embeddings of all windows (N * windows, D), the windows of a clip in a row.

    None if the batches hold no clip, as may be with the share of one rank of several.
    """
    parts: dict[str, list[Tensor]] = {}
    lists: dict[str, list[Any]] = {"captions": [], "videos": [], "ranges": []}
    with evaluating(model):
        for batch in batches:
            if not batch["captions"]:
                continue
            inputs = {name: batch[name].to(device) for name in ("video", "audio", "text")}
            for name, value in model(**inputs).items():
                if not name.endswith("features_pooled"):
                    parts.setdefault(name, []).append(value.float().cpu())
            for name in ("text_mask", "audio_mask"):
                parts.setdefault(name, []).append(batch[name].bool())
            for name, values in lists.items():
                values.extend(batch[name])
    if not parts:
        return None
    joined = {name: torch.cat(tensors) for name, tensors in parts.items()}
    text, audio = joined.pop("text_mask"), joined.pop("audio_mask")
    return Embeddings(joined, text, audio, **lists)


def similarity(
    query_QD: Tensor, video_VD: Tensor, windows: int = 1, *, average_embeddings: bool = True, normalize: bool = True
) -> Tensor:
    """Dot products (Q, V).

    Args:
        video_VD: (V * windows, D).
        average_embeddings: average the embeddings of a video's windows before the product; else the products after.
        normalize: L2-normalise: after averaging, or each embedding. With one window and ``average_embeddings`` the
            official code does not normalise; neither does this.

    Raises:
        ValueError: the rows are no multiple of ``windows``. EvaluationError: a value is not finite.
    """
    if len(video_VD) % windows:
        raise ValueError(f"video_VD: {len(video_VD)} rows are no multiple of {windows} windows")
    for name, x in (("query_QD", query_QD), ("video_VD", video_VD)):
        if not torch.isfinite(x).all():
            raise EvaluationError(f"{name}: holds values that are not finite")
    if average_embeddings:
        if windows > 1:
            video_VD = video_VD.unflatten(0, (-1, windows)).mean(1)
            if normalize:
                query_QD, video_VD = _unit(query_QD), _unit(video_VD)
        return query_QD @ video_VD.T
    if normalize:
        query_QD, video_VD = _unit(query_QD), _unit(video_VD)
    return (query_QD @ video_VD.T).unflatten(1, (-1, windows)).mean(2)


def _unit(x_ND: Tensor) -> Tensor:
    return F.normalize(x_ND, dim=-1)


def ranks(similarity_QV: Tensor, target_Q: Tensor | None = None) -> Tensor:
    """The rank (1 is best) of each query's own video in descending similarity; int64 (Q,).

    ``target_Q`` holds the index of that video, by default the query's own. Videos that are exactly as similar come
    before it, so that embeddings which are all alike score nothing.
    """
    if target_Q is None:
        target_Q = torch.arange(len(similarity_QV), device=similarity_QV.device)
    own_Q1 = similarity_QV.gather(1, target_Q[:, None])
    return (similarity_QV >= own_Q1).sum(1)


def retrieval(similarity_QV: Tensor, target_Q: Tensor | None = None) -> Retrieval:
    """Recall and median rank of the queries' own videos. Raises ValueError without a query."""
    if similarity_QV.numel() == 0:
        raise ValueError("similarity_QV: no query or no video")
    rank_Q = ranks(similarity_QV, target_Q).double()
    r1, r5, r10 = ((rank_Q <= k).double().mean().item() for k in (1, 5, 10))
    return Retrieval(r1, r5, r10, rank_Q.quantile(0.5).item(), len(rank_Q))


def chance(n_queries: int, n_videos: int) -> Retrieval:
    """What a random order of the videos is expected to reach."""
    r1, r5, r10 = (min(k / n_videos, 1.0) for k in (1, 5, 10))
    return Retrieval(r1, r5, r10, (n_videos + 1) / 2, n_queries)


def _similarities(found: Embeddings) -> dict[str, tuple[Tensor, Tensor]]:
    """For each direction that has a query: cosine similarities (Q, N), and the numbers of the queries' clips (Q,)."""
    has_query = {"text_to_video": found.has_text_N, "audio_to_video": found.has_audio_N}
    pairs = {}
    for name, (query, video) in _PAIRS.items():
        if (has := has_query[name]).any():
            similar_QN = similarity(found.spaces[query][has], found.spaces[video], average_embeddings=False)
            pairs[name] = (similar_QN, has.nonzero()[:, 0])
    return pairs


def retrieval_table(found: Embeddings) -> Table:
    """Retrieval of all clips from the captions and from the sounds of those that have them, and chance beside it.

    Raises:
        EvaluationError: an embedding is not finite.
    """
    table = {name: retrieval(similar, own) for name, (similar, own) in _similarities(found).items()}
    table["chance"] = chance(len(found.captions), len(found.captions))
    return table


def retrieval_tables(found: Embeddings, windows: int) -> dict[str, Table]:
    """Retrieval by averaged embeddings (the paper's) and by averaged similarities, of `embed_windows`.

    Raises:
        EvaluationError: an embedding is not finite.
    """
    clips = len(found.captions)
    averaged = replace(found, spaces={name: _per_clip(x, clips).mean(1) for name, x in found.spaces.items()})
    tables = {"embeddings": retrieval_table(averaged), "similarities": {}}
    for name, (query, video) in _PAIRS.items():
        has = found.has_text_N if name == "text_to_video" else found.has_audio_N
        if not has.any():
            continue
        query_ND = _per_clip(found.spaces[query], clips).mean(1)
        similar = similarity(query_ND[has], found.spaces[video], windows, average_embeddings=False)
        tables["similarities"][name] = retrieval(similar, has.nonzero()[:, 0])
    tables["similarities"]["chance"] = chance(clips, clips)
    return tables


def _per_clip(x: Tensor, clips: int) -> Tensor:
    """(N * windows, D) -> (N, windows, D); a sentence has one row per clip."""
    return x.unflatten(0, (clips, -1))


def format_table(table: Table, oracle: dict[str, Any] | None = None) -> str:
    """The table as lines for a terminal; ``oracle`` adds what is attainable, with fields as ``Retrieval``."""
    lines = [f"{'':22}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'MedR':>8}{'R@5 / chance':>15}"]
    base = table["chance"].r5
    rows: list[tuple[str, Any]] = [(NAMES[name], level) for name, level in table.items()]
    rows += [(f"oracle {NAMES[name]}", level) for name, level in (oracle or {}).items() if name != "chance"]
    for name, level in rows:
        shares = "".join(f"{100 * share:7.1f}%" for share in (level.r1, level.r5, level.r10))
        lines.append(f"{name:22}{shares}{level.median_rank:8.1f}{level.r5 / base:14.1f}x")
    return "\n".join(lines)


def write_results(path: Path, found: Embeddings, table: Table, oracle: dict[str, Any] | None = None) -> None:
    """Writes the table, and what each sentence found, as JSON: what the report of a run is made from.

    Layout: {"table": {direction: fields of `Retrieval`}, "oracle": likewise, "queries": [{"text", "rank", and of the
    query's own clip "video", "start", "end"; "top": [{"video", "start", "end", "score", "own"}, ...]}]}.
    """
    queries = []
    if "text_to_video" in (similar := _similarities(found)):
        similar_QN, own_Q = similar["text_to_video"]
        rank_Q = ranks(similar_QN, own_Q)
        for row, own, rank in zip(similar_QN, own_Q.tolist(), rank_Q.tolist(), strict=True):
            best = row.topk(min(_FOUND, len(row)))
            top = [
                {**_where(found, i), "score": score, "own": i == own}
                for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            queries.append({"text": found.captions[own], "rank": rank, **_where(found, own), "top": top})
    content = {
        "table": {name: asdict(level) for name, level in table.items()},
        "oracle": {name: asdict(level) for name, level in (oracle or {}).items()},
        "queries": queries,
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _where(found: Embeddings, i: int) -> dict[str, Any]:
    start, end = found.ranges[i]
    return {"video": found.videos[i], "start": start, "end": end}
