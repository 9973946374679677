"""Zero-shot retrieval: sentences and sounds find the video that they belong to, without any further training.

Embeddings of held-out clips, their ranks and recall (official utils/eval/measures.py).

The strict figures count the query's own clip as right. Where several clips have an equal caption, or an equal sound, no
model can tell them apart: a second figure counts all of them as right, beside the chance of the same.

Shapes: N clips, Q queries, V videos, D width, R rows of a batch, W windows of a clip.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vatt.errors import UserError
from vatt.evaluation import evaluating
from vatt.evaluation.ranking import Alone, Asked, Found, Ranks, rank_queries
from vatt.models import VATT

Table = dict[str, "Retrieval"]
NAMES = {"text_to_video": "text -> video", "audio_to_video": "audio -> video", "chance": "chance"}
EQUAL = {"text_to_video": "caption", "audio_to_video": "sound"}  # what makes another clip right as well
_PAIRS = {"text_to_video": ("text/tovid", "video/totxt"), "audio_to_video": ("audio/tovid", "video/toaud")}
MEANINGFUL = 10  # clips below which recall at 5 and 10 says nothing
_FOUND = 5  # clips that the results keep of each query
_KEPT = 1000  # queries that the results keep
_EXAMPLES = 3  # captions or sounds of several clips that are named
_ROUNDED = 1e-9  # of a share, in which half of all ranks is still half


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


@dataclass(frozen=True)
class EqualRetrieval(Retrieval):
    """As `Retrieval`, where all clips with an equal caption or sound are right: the rank of the best of them counts,
    among those that are wrong.

    Attributes:
        shared: queries with other clips than their own that are right.
        examples: captions, or files, that most clips share, with the number of those clips.
        chance: of the same.
    """

    shared: int
    examples: list[tuple[str, int]]
    chance: Retrieval


@dataclass
class Embeddings:
    """Embeddings of N clips in the common spaces, each (N, D) float32 on the CPU.

    Attributes:
        spaces: "video/totxt", "text/tovid", "video/toaud", "audio/tovid": of a video the mean over its windows, of its
            sound the mean over the windows that have any.
        has_text_N, has_audio_N: bool; clips without are searched, but are no query.
        captions, videos: the query and the file of each clip.
        ranges: start and end of each clip in its file, seconds or None.
        sounds: bytes that are the same for clips of equal sound, empty for a silent one.
        unit_means: of the two spaces of video: the mean over the windows of embeddings of length 1. The product of a
            query with it is the mean of its cosine similarities to the windows.
    """

    spaces: dict[str, Tensor]
    has_text_N: Tensor
    has_audio_N: Tensor
    captions: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    ranges: list[tuple[float | None, float | None]] = field(default_factory=list)
    sounds: list[bytes] = field(default_factory=list)
    unit_means: dict[str, Tensor] = field(default_factory=dict)


def embed(model: VATT, batches: Iterable[dict[str, Any]], device: torch.device | str = "cpu") -> Embeddings:
    """Embeds the batches of ``vatt.data.eval_batches`` in evaluation mode, and puts the mode back. They may hold no
    clip, as may be with the share of one rank of several.

    As the official evaluation does, the embeddings of a clip's windows are averaged first and normalised after.
    """
    found = Embeddings({}, *torch.empty(2, 0, dtype=torch.bool))
    spaces: dict[str, list[Tensor]] = {name: [] for pair in _PAIRS.values() for name in pair}
    units: dict[str, list[Tensor]] = {video: [] for _, video in _PAIRS.values()}
    has_text, has_audio = [found.has_text_N], [found.has_audio_N]
    with evaluating(model):
        for batch in batches:
            if not batch["captions"]:
                continue
            out = model(**{name: batch[name].to(device) for name in ("video", "audio", "text")})
            of_BW, heard_BW = batch["of_window"], batch["audio_mask"].bool()
            for name in spaces:
                x_RD = out[name].float().cpu()
                if name in units:
                    spaces[name].append(x_RD[of_BW].mean(1))
                    units[name].append(_unit(x_RD)[of_BW].mean(1))
                else:
                    spaces[name].append(x_RD if name.startswith("text") else _mean_of_heard(x_RD[of_BW], heard_BW))
            has_text.append(batch["text_mask"].bool())
            has_audio.append(heard_BW.any(1))
            for name in ("captions", "videos", "ranges", "sounds"):
                getattr(found, name).extend(batch[name])
    if found.captions:
        found.spaces = {name: torch.cat(parts) for name, parts in spaces.items()}
        found.unit_means = {name: torch.cat(parts) for name, parts in units.items()}
    found.has_text_N, found.has_audio_N = torch.cat(has_text), torch.cat(has_audio)
    return found


def _mean_of_heard(x_BWD: Tensor, heard_BW: Tensor) -> Tensor:
    """The mean over the windows with sound; over all of them where none has."""
    weight_BW = torch.where(heard_BW.any(1, keepdim=True), heard_BW, True).to(x_BWD.dtype)
    return (x_BWD * weight_BW[..., None]).sum(1) / weight_BW.sum(1, keepdim=True)


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


def chance_of_equal(right_Q: Tensor, n_videos: int) -> Retrieval:
    """What a random order of the videos is expected to reach where, for each query, ``right_Q`` (int64) are right.

    Of k videos drawn from V of which m are right, none is right with the chance C(V - m, k) / C(V, k). The median rank
    is that of all queries together: with 2 of 100 right it is 30, while the mean is 33.7.
    """
    median_rank = _median_by_chance(right_Q, n_videos)
    right_Q = right_Q.double()

    def recall(k: int) -> float:
        drawn_k = torch.arange(min(k, n_videos), dtype=torch.float64)
        wrong_Qk = (n_videos - right_Q[:, None] - drawn_k).clamp(min=0) / (n_videos - drawn_k)
        return 1 - wrong_Qk.prod(1).mean().item()

    return Retrieval(recall(1), recall(5), recall(10), median_rank, len(right_Q))


def _median_by_chance(right_Q: Tensor, n_videos: int) -> float:
    """The median of the ranks of the first right video; the mean of the two in the middle, as of ``chance``."""
    right, counts = right_Q.unique(return_counts=True)
    others = [torch.arange(m, dtype=torch.float64) for m in right.tolist()]

    def later(rank: int) -> float:
        """The share of queries whose rank is higher: C(V - k, m) / C(V, m), in m factors."""
        shares = [((n_videos - rank - m).clamp(min=0) / (n_videos - m)).prod() for m in others]
        return float((torch.stack(shares) * counts).sum() / counts.sum())

    def least(share: float) -> int:
        return 1 + bisect_left(range(1, n_videos), -share, key=lambda rank: -later(rank))

    return (least(0.5 + _ROUNDED) + least(0.5 - _ROUNDED)) / 2


def same_caption(caption: str) -> str:
    """What is compared of captions: without letter case, punctuation, and differences of white space or of writing the
    same letters (Unicode NFKC)."""
    letters = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join("".join(c for c in letters if not unicodedata.category(c).startswith("P")).split())


def _groups(items: Sequence[str | bytes], has_N: Tensor) -> Tensor:
    """int64 (N,): equal for equal items, and 0 for those that are empty or no query."""
    found = [
        int.from_bytes(hashlib.blake2b(_bytes(item), digest_size=8).digest(), "big", signed=True) if item and has else 0
        for item, has in zip(items, has_N.tolist(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.int64)


def _bytes(item: str | bytes) -> bytes:
    return item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item


def retrieval_table(found: Embeddings, ranks: Ranks | None = None) -> Table:
    """Retrieval of all clips from the captions and from the sounds of those that have them, and chance beside it.

    "text_to_video_equal" and "audio_to_video_equal" are there where clips share captions or sounds.

    Args:
        ranks: the processes that share the clips out; all must call, and all get the table. None: this one alone.

    Raises:
        EvaluationError: no clip, or an embedding that is not finite.
    """
    return _table(found, {name: found.spaces[name] for _, name in _PAIRS.values() if name in found.spaces}, ranks)


def retrieval_tables(found: Embeddings, ranks: Ranks | None = None) -> dict[str, Table]:
    """Retrieval by averaged embeddings (the paper's) and by averaged similarities; see `retrieval_table`."""
    return {"embeddings": retrieval_table(found, ranks), "similarities": _table(found, found.unit_means, ranks, False)}


def _table(found: Embeddings, videos: dict[str, Tensor], ranks: Ranks | None, normalise: bool = True) -> Table:
    ranks, table = ranks or Alone(), Table()
    total = torch.tensor(len(found.captions))
    ranks.sum(total)
    if not (clips := int(total)):
        raise EvaluationError("evaluation: no clip could be read")
    _check_finite(found, ranks)
    for name, (query, video) in _PAIRS.items():
        has_N = found.has_text_N if name == "text_to_video" else found.has_audio_N
        groups_N = _groups(_what_is_shared(found, name), has_N)
        own_Q, none = has_N.nonzero()[:, 0], torch.empty(0, 0)
        x_QD = _unit(found.spaces[query][own_Q]) if query in found.spaces else none
        x_VD = videos.get(video, none)
        asked = Asked(x_QD, own_Q, groups_N[own_Q])
        mine = rank_queries(asked, Found(_unit(x_VD) if normalise else x_VD, groups_N), ranks)
        rank_Q, equal_Q, right_Q = (torch.cat(ranks.gather(x)) for x in (mine.rank_Q, mine.equal_Q, mine.right_Q))
        if len(rank_Q):
            table[name] = Retrieval(*_recalls(rank_Q), len(rank_Q))
        if shared := int((right_Q > 1).sum()):
            examples = _examples(found, name, groups_N, mine.right_Q, own_Q, ranks)
            by_chance = chance_of_equal(right_Q, clips)
            table[f"{name}_equal"] = EqualRetrieval(*_recalls(equal_Q), len(equal_Q), shared, examples, by_chance)
    table["chance"] = chance(clips, clips)
    return table


def _what_is_shared(found: Embeddings, name: str) -> Sequence[str | bytes]:
    """Of each clip what makes others right as well."""
    if name == "text_to_video":
        return [same_caption(caption) for caption in found.captions]
    return found.sounds or [b""] * len(found.captions)


def _examples(
    found: Embeddings, name: str, groups_N: Tensor, right_Q: Tensor, own_Q: Tensor, ranks: Ranks
) -> list[tuple[str, int]]:
    """The captions, or the files whose sounds, most clips share, of all processes."""
    names = found.captions if name == "text_to_video" else found.videos
    counts = dict(zip(groups_N[own_Q].tolist(), right_Q.tolist(), strict=True))
    best = sorted((-count, group) for group, count in counts.items() if count > 1)[:_EXAMPLES]
    mine = [(*key, min(names[clip] for clip in (groups_N == key[1]).nonzero()[:, 0].tolist())) for key in best]
    every: dict[tuple[int, int], str] = {}
    for count, group, text in sorted((item for part in ranks.gather(mine) for item in part), reverse=True):
        every[count, group] = text
    return [(every[key], -key[0]) for key in sorted(every)[:_EXAMPLES]]


def _check_finite(found: Embeddings, ranks: Ranks) -> None:
    """Raises EvaluationError, on all processes: a value is not finite."""
    bad = [name for name, x in found.spaces.items() if not torch.isfinite(x).all()]
    if bad := [name for part in ranks.gather(bad) for name in part]:
        raise EvaluationError(f"evaluation: {bad[0]}: holds values that are not finite")


def _recalls(rank_Q: Tensor) -> tuple[float, float, float, float]:
    r1, r5, r10 = ((rank_Q <= k).double().mean().item() for k in (1, 5, 10))
    return r1, r5, r10, _median(rank_Q.double())


def _median(x_Q: Tensor) -> float:
    """The mean of the two in the middle, or of the one."""
    ordered_Q, n = x_Q.sort().values, len(x_Q)
    return float((ordered_Q[(n - 1) // 2] + ordered_Q[n // 2]) / 2)


def format_table(table: Table, oracle: dict[str, Any] | None = None) -> str:
    """The table as lines for a terminal; ``oracle`` adds what is attainable, with fields as ``Retrieval``."""
    lines = [f"{'':22}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'MedR':>8}{'R@5 / chance':>15}"]
    rows: list[tuple[str, Any, float]] = []
    for name, level in table.items():
        if isinstance(level, EqualRetrieval):
            rows.append((f"  or an equal {EQUAL[name.removesuffix('_equal')]}", level, level.chance.r5))
        else:
            rows.append((NAMES[name], level, table["chance"].r5))
    oracles = [(name, level) for name, level in (oracle or {}).items() if name != "chance"]
    rows += [(f"oracle {NAMES[name]}", level, table["chance"].r5) for name, level in oracles]
    for name, level, base in rows:
        shares = "".join(f"{100 * share:7.1f}%" for share in (level.r1, level.r5, level.r10))
        lines.append(f"{name:22}{shares}{level.median_rank:8.1f}{level.r5 / base:14.1f}x")
    return "\n".join(lines)


def shared_lines(table: Table) -> list[str]:
    """In words, the captions and sounds that are those of several clips."""
    found = []
    for name, level in table.items():
        if isinstance(level, EqualRetrieval):
            examples = ", ".join(f"{text!r} ({count} clips)" for text, count in level.examples)
            what = EQUAL[name.removesuffix("_equal")]
            found.append(f"{level.shared} of {level.n} {what}s are shared by several clips: {examples}")
    return found


def write_results(path: Path, found: Embeddings, table: Table, oracle: dict[str, Any] | None = None) -> None:
    """Writes the table, and what sentences found, as JSON: what the report of a run is made from.

    Layout: {"table": {direction: fields of `Retrieval`, or of `EqualRetrieval`}, "oracle": likewise, "queries":
    [{"text", "rank", and of the query's own clip "video", "start", "end"; "top": [{"video", "start", "end", "score",
    "own"}, ...]}]}, of at most 1000 queries, evenly spread.
    """
    queries, (query, video) = [], _PAIRS["text_to_video"]
    own_Q = found.has_text_N.nonzero()[:, 0]
    if len(own_Q):
        own_Q = own_Q[:: -(-len(own_Q) // _KEPT)]
        x_QD, x_ND = _unit(found.spaces[query][own_Q]), _unit(found.spaces[video])
        none = torch.zeros(len(x_ND), dtype=torch.int64)
        rank_Q = rank_queries(Asked(x_QD, own_Q, none[own_Q]), Found(x_ND, none)).rank_Q
        for x_D, own, rank in zip(x_QD, own_Q.tolist(), rank_Q.tolist(), strict=True):
            best = (x_ND @ x_D).topk(min(_FOUND, len(x_ND)))
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
