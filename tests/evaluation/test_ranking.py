"""Ranks block by block, in one process and shared out to two, against the matrix of all similarities."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch.nn import functional as F

from tests.golden.ranks import run_on_ranks
from vatt.evaluation import ranking
from vatt.evaluation.ranking import Asked, Found, Together, rank_queries
from vatt.evaluation.retrieval import Embeddings, ranks, retrieval_tables


def problem(videos, groups, width, seed=0):
    """Queries near their own videos, some videos twice, some in no group; the groups of queries are their videos'."""
    g = torch.Generator().manual_seed(seed)
    video_VD = F.normalize(torch.randn(videos, width, generator=g), dim=1)
    video_VD[videos // 2 : videos // 2 + 30] = video_VD[:30]
    own_Q = torch.randperm(videos, generator=g)[: videos - 40]
    query_QD = F.normalize(video_VD[own_Q] + 0.5 * torch.randn(len(own_Q), width, generator=g), dim=1)
    group_V = torch.randint(1, groups + 1, (videos,), generator=g)
    group_V[::7] = 0
    return Asked(query_QD, own_Q, group_V[own_Q]), Found(video_VD, group_V)


def whole(asked, found):
    """The same of one matrix in float64: ranks, ranks of the best right one, and the number of right ones."""
    similar_QV = asked.x_QD.double() @ found.x_VD.double().T
    right_QV = (asked.group_Q[:, None] == found.group_V) & (asked.group_Q[:, None] != 0)
    right_QV |= torch.arange(len(found.x_VD)) == asked.own_Q[:, None]
    own_Q1 = similar_QV.gather(1, asked.own_Q[:, None])
    best_Q1 = similar_QV.masked_fill(~right_QV, -2).amax(1, keepdim=True)
    equal_Q = ((similar_QV >= best_Q1 - 1e-12) & ~right_QV).sum(1) + 1
    return (similar_QV >= own_Q1 - 1e-12).sum(1), equal_Q, right_QV.sum(1)


def assert_ranks(got, expected):
    for one, other in zip((got.rank_Q, got.equal_Q, got.right_Q), expected, strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize(("videos", "groups", "width"), [(700, 300, 24), (400, 5, 6), (300, 10**9, 64)])
@pytest.mark.parametrize("blocks", [(1024, 4096), (64, 100), (37, 13)])
def test_blocks_change_nothing(videos, groups, width, blocks, monkeypatch):
    monkeypatch.setattr(ranking, "_QUERIES", blocks[0])
    monkeypatch.setattr(ranking, "_VIDEOS", blocks[1])
    asked, found = problem(videos, groups, width)
    assert_ranks(rank_queries(asked, found), expected := whole(asked, found))
    assert len(set(expected[0].tolist())) > 5  # or nothing here could fail
    assert (expected[2] > 1).any() == (groups < 10**9)


@pytest.mark.parametrize("pairs", [2**16, 10])
def test_embeddings_that_are_all_alike_score_nothing(monkeypatch, pairs):
    monkeypatch.setattr(ranking, "_PAIRS", pairs)
    one_D = F.normalize(torch.randn(48, generator=torch.Generator().manual_seed(1)), dim=0)
    alike = one_D.expand(300, 48).contiguous()
    group = torch.arange(300) // 3 + 1
    found = rank_queries(Asked(alike, torch.arange(300), group), Found(alike, group))
    assert set(found.rank_Q.tolist()) == {300}
    assert set(found.equal_Q.tolist()) == {298}
    with torch.no_grad():
        assert set(ranks(alike @ alike.T).tolist()) == {300}


def share(number, count, asked, found):
    """The videos and queries of one of several ranks; the first of three has none."""
    own = torch.arange(len(found.x_VD)) % max(1, count - 1) == number - 1 if count > 2 else None
    own = torch.arange(len(found.x_VD)) % count == number if own is None else own
    place = own.cumsum(0) - 1
    asks = own[asked.own_Q]
    mine = Asked(asked.x_QD[asks], place[asked.own_Q[asks]], asked.group_Q[asks])
    return mine, Found(found.x_VD[own], found.group_V[own]), asks


def on_a_rank(rank, count):
    ranking._QUERIES, ranking._VIDEOS = 50, 64
    asked, found = problem(500, 200, 16)
    mine, videos, asks = share(rank, count, asked, found)
    if not len(videos.x_VD):  # as a rank that got no clip, which does not know the width
        mine, videos = (
            Asked(torch.empty(0, 0), mine.own_Q, mine.group_Q),
            Found(torch.empty(0, 0), videos.group_V),
        )
    got = rank_queries(mine, videos, Together(None))
    return [got.rank_Q, got.equal_Q, got.right_Q, asks]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_that_share_the_videos_out_give_what_one_does(count):
    asked, found = problem(500, 200, 16)
    expected = whole(asked, found)
    seen = torch.zeros(len(asked.own_Q), dtype=torch.int64)
    for *got, asks in run_on_ranks(on_a_rank, count):
        seen += asks
        for one, other in zip(got, expected, strict=True):
            assert one.tolist() == other[asks].tolist()
    assert set(seen.tolist()) == {1}


def embedded():
    g = torch.Generator().manual_seed(3)
    spaces = {n: torch.randn(90, 12, generator=g) for n in ("text/tovid", "video/totxt", "audio/tovid", "video/toaud")}
    has = torch.arange(90) % 5 != 0
    captions = [f"caption {number % 40}" if has[number] else "" for number in range(90)]
    sounds = [bytes([number % 70 + 1]) if number % 3 else b"" for number in range(90)]
    units = {name: spaces[name] for name in ("video/totxt", "video/toaud")}
    names = [f"{number}.mp4" for number in range(90)]
    heard = torch.tensor([bool(sound) for sound in sounds])
    return Embeddings(spaces, has, heard, captions, names, [(None, None)] * 90, sounds, units)


def table_on_a_rank(rank, count):
    found = embedded()
    own = list(range(90))[rank::count]
    mine = Embeddings(
        {name: x[own] for name, x in found.spaces.items()},
        found.has_text_N[own],
        found.has_audio_N[own],
        *([items[number] for number in own] for items in (found.captions, found.videos, found.ranges, found.sounds)),
        {name: x[own] for name, x in found.unit_means.items()},
    )
    tables = retrieval_tables(mine, Together(None))
    return {kind: {name: asdict(level) for name, level in table.items()} for kind, table in tables.items()}


def flat(value):
    """Nested dicts and lists in a row."""
    if isinstance(value, dict | list | tuple):
        return [item for part in (value.values() if isinstance(value, dict) else value) for item in flat(part)]
    return [value]


@pytest.mark.slow
def test_two_ranks_give_the_tables_of_one():
    alone = retrieval_tables(embedded())
    assert alone["embeddings"]["text_to_video_equal"].shared > 10
    expected = {kind: {name: asdict(level) for name, level in table.items()} for kind, table in alone.items()}
    for got in run_on_ranks(table_on_a_rank, 2):
        assert {kind: list(table) for kind, table in got.items()} == {
            kind: list(table) for kind, table in alone.items()
        }
        for one, other in zip(flat(got), flat(expected), strict=True):
            assert one == (pytest.approx(other, rel=1e-12) if isinstance(other, float) else other)


def test_ranks_that_lack_a_value_all_say_so():
    found = embedded()
    found.spaces["video/toaud"][3, 2] = float("nan")
    with pytest.raises(ValueError, match="video/toaud: holds values that are not finite"):
        retrieval_tables(found)
    with pytest.raises(ValueError, match="no clip could be read"):
        retrieval_tables(Embeddings({}, *torch.empty(2, 0, dtype=torch.bool)))
