"""The last words of a run: what failed, our times beside the peers', and the targets of bench/LOG.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bench.peers import COMPILE, OURS
from bench.store import number
from bench.suite.prepared import BOTH
from bench.suite.session import AGAIN as AGAIN_SUFFIX

Rows = list[dict[str, str]]
AGAIN = OURS + AGAIN_SUFFIX


@dataclass(frozen=True)
class Target:
    """``met`` (rows of the case by provider) says whether the target is met, and by how much; None: not measured."""

    text: str
    op: str
    cases: tuple[str, ...]
    met: Callable[[dict[str, dict[str, str]]], tuple[bool, str] | None]


def correctness(rows: Rows) -> Iterator[str]:
    """Counts, and the worst tensor of each operation: its error as a share of the bound."""
    if not rows:
        return
    failed = [row for row in rows if row["passed"] != "True"]
    yield f"correctness: {len(rows) - len(failed)} of {len(rows)} tensors pass"
    for op in dict.fromkeys(row["op"] for row in rows):
        judged = [(float(row["error"]) / float(row["bound"]), row) for row in rows if row["op"] == op and row["error"]]
        if judged:
            share, row = max(judged, key=lambda pair: pair[0])
            where = f"{row['case']} {row['backend']} {row['tensor']}"
            yield f"  {op}: the worst is {row['error']} of at most {float(row['bound']):.3g} ({share:.0%}): {where}"
    for row in failed:
        what = row["note"] or f"error {row['error']} bound {row['bound']} nans {row['nans']} bits {row['same_bits']}"
        yield f"  FAILED {row['op']} {row['case']} p={row['dropout']} {row['backend']} {row['tensor']}: {what}"


def by_case(rows: Rows) -> dict[tuple[str, str, str, str], dict[str, dict[str, str]]]:
    """(op, case, dropout, mode) -> rows with a time by provider."""
    found: dict[tuple[str, str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        if row["ms"]:
            key = (row["op"], row["case"], row["dropout"], row["mode"])
            found.setdefault(key, {})[row["provider"]] = row
    return found


def speed(rows: Rows, short: bool = False) -> Iterator[str]:
    """One line a case: ours, its share of the floor, and how much faster it is than each kind of peer. ``short``: only
    forward and backward together, of the cases that have a target."""
    aims = {(target.op, case) for target in TARGETS for case in target.cases}
    for (op, case, dropout, mode), of in by_case(rows).items():
        if OURS not in of or (short and (mode != BOTH or (op, case) not in aims)):
            continue
        ours = of[OURS]
        parts = [f"{float(ours['ms']):.4g} ms", f"floor {float(ours['floor_share']):.0%}"]
        for label, names in (("eager", {"torch"}), ("compile", _compiled(of)), ("best peer", _peers(of))):
            best = _fastest(of[name] for name in names if name in of)
            if best is not None:
                name = f" {best['provider']}" if label == "best peer" else ""
                parts.append(f"{label}{name} {float(best['ms']) / float(ours['ms']):.2f}x")
        if number(ours, "peak_mib"):
            parts.append(f"{float(ours['peak_mib']):.0f} MiB")
        yield f"{op} {case} p={dropout} {mode}: " + ", ".join(parts)


def _fastest(rows: Iterable[dict[str, str]]) -> dict[str, str] | None:
    return min(rows, key=lambda row: float(row["ms"]), default=None)


def _compiled(of: dict[str, dict[str, str]]) -> set[str]:
    return {name for name in of if name.startswith(COMPILE)}


def _peers(of: dict[str, dict[str, str]]) -> set[str]:
    """Neither ours nor plain or compiled PyTorch."""
    return {name for name in of if not name.startswith(OURS) and name != "torch"} - _compiled(of)


def _ratio(names: Callable[[dict[str, dict[str, str]]], set[str]], least: float, ours: str = OURS) -> Callable:  # type: ignore[type-arg]
    def met(of: dict[str, dict[str, str]]) -> tuple[bool, str] | None:
        peer = _fastest(of[name] for name in names(of) if name in of)
        if peer is None or ours not in of:
            return None
        ratio = float(peer["ms"]) / float(of[ours]["ms"])
        return ratio >= least, f"{ratio:.2f}x of {peer['provider']}"

    return met


def _floor(of: dict[str, dict[str, str]]) -> tuple[bool, str] | None:
    share = number(of.get(OURS, {}), "floor_share")
    return None if share is None else (share >= 0.7, f"{share:.0%}")


def _memory(of: dict[str, dict[str, str]]) -> tuple[bool, str] | None:
    ours = number(of.get(OURS, {}), "peak_mib")
    """Against those that have the whole matrix in memory."""
    whole = (_peers(of) | _compiled(of) | {"torch"}) - {"torch in slices"}
    others = [number(of[name], "peak_mib") for name in whole if name in of]
    theirs = min((other for other in others if other), default=None)
    return None if not ours or not theirs else (ours <= theirs / 20, f"1/{theirs / ours:.0f}")


_VIDEO, _BLOCK = ("video_768",), ("video_785_768",)
_LONG = ("audio_601_h12", "video_785_h12", "finetune_3201_h12")
_NCE = ("mil_32768x5_f32", "mil_32768x5_bf16", "mil_4096x5_f32", "mil_4096x5_bf16")
_SDPA = f"{OURS}+sdpa"
TARGETS = (
    Target("at least 4x eager", "patch_embed", _VIDEO, _ratio(lambda of: {"torch"}, 4.0)),
    Target("at least 2x torch.compile", "patch_embed", _VIDEO, _ratio(lambda of: {COMPILE}, 2.0)),
    Target("at least 1.2x gather + cuBLAS", "patch_embed", _VIDEO, _ratio(lambda of: {"gather + cuBLAS"}, 1.2)),
    Target("at least 70% of the floor's rate", "patch_embed", _VIDEO, _floor),
    Target("at least the best peer", "attention", _LONG, _ratio(_peers, 1.0)),
    Target("at least 1.6x eager", "block", _BLOCK, _ratio(lambda of: {"torch"}, 1.6)),
    Target("at least 1.2x torch.compile", "block", _BLOCK, _ratio(lambda of: {COMPILE}, 1.2)),
    Target("at least 1.6x eager, same attention", "block", _BLOCK, _ratio(lambda of: {"torch+sdpa"}, 1.6, _SDPA)),
    Target(
        "at least 1.2x compiled, same attention", "block", _BLOCK, _ratio(lambda of: {f"{COMPILE}+sdpa"}, 1.2, _SDPA)
    ),
    Target(
        "at least 2x the fastest that fits", "nce", _NCE, _ratio(lambda of: _peers(of) | _compiled(of) | {"torch"}, 2.0)
    ),
    Target("at most 1/20 of the memory", "nce", _NCE, _memory),
)


def targets(rows: Rows) -> Iterator[str]:
    """Each target at each of its cases, forward and backward: met, missed, or not measured."""
    cases = by_case(rows)
    for target in TARGETS:
        for key, of in cases.items():
            op, case, dropout, mode = key
            if op != target.op or case not in target.cases or mode != BOTH:
                continue
            result = target.met(of)
            word = "not measured" if result is None else f"{'met' if result[0] else 'MISSED'} ({result[1]})"
            yield f"target: {op} {case} p={dropout} {target.text}: {word}"


def noise(rows: Rows) -> Iterator[str]:
    """How far the second timing of ours lies from the first, at most: smaller differences mean nothing."""
    pairs = [(of[OURS], of[AGAIN]) for of in by_case(rows).values() if OURS in of and AGAIN in of]
    if pairs:
        most = max(abs(float(b["ms"]) / float(a["ms"]) - 1) for a, b in pairs)
        yield f"noise: timings of the same call differ by up to {most:.1%}"
