"""What the figures of a run say about it, each in one line with what to try: pairs that do not learn, embeddings that
have collapsed, modalities that are not there, runs that nobody will wait for.

A pair is at its chance (`vatt.objectives.contrastive.chance`) where its loss is not below that by 1%, in the mean over
the last half of the steps since the warm-up. That is judged once there are 100 such steps and as many as the warm-up
had, and the run is half over or has done 1000 of them: a hard pair may stay there for a while and then learn.
Embeddings have collapsed where different clips have a mean cosine above 0.99 in two records, and the loss is not below
its chance: with it they begin to part, as words of a small model do in a run that goes well. Sounds may need 150 of 652
steps for that (bench/LOG.md, "Stamps"): it is judged after as many steps as the warm-up had, but a quarter of the run
at most, once a third of the run is over or 1000 steps are done.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.core.console import MISSING, SHORT, cosines
from train.core.pace import Eta

Record = Mapping[str, Any]

_MARGIN = 0.01  # of the chance, within which a loss is at it
_COLLAPSED = 0.99  # mean cosine of different clips
_FEWEST, _MANY = 100, 1000  # steps after the warm-up: before nothing is judged, and from then on always
_SOON = 20  # steps after the warm-up, before which nothing has collapsed; also before the summary says anything
_THIRD = 3  # the part of a run after which what is alike stays alike
_MOST = 100  # records that a judgement rests on
_CLIPS = 200  # without sound or captions, before it is told
_HOPELESS = 30 * 86_400.0  # seconds
_SOURCES = {
    "vidtxt_loss": "captions come from the manifest or from files beside the videos",
    "vidaud_loss": "vatt data check --sound lists what is silent",
}


def warmup_of(wanted: int, steps: int) -> int:
    """Steps of warm-up: ``optim.warmup_steps``, at most half of the run."""
    return min(wanted, steps // 2)


def setting(config: Record, dotted: str, default: Any = None) -> Any:
    """A value of the nested configuration; ``default`` where a run of another version did not have it."""
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return default
        value = value[key]
    return value


class Advisor:
    """Looks at the records of a run as they come. What is found is told when it appears, not again while it lasts."""

    def __init__(self, config: Record) -> None:
        """``config``: the nested configuration of the run."""
        self._config = config
        self._records: list[Record] = []
        self._lasting: set[str] = set()
        self._length_told = False

    def at_start(self) -> list[str]:
        """What the settings alone say."""
        steps, wanted = setting(self._config, "run.steps"), setting(self._config, "optim.warmup_steps")
        if (warmup := warmup_of(wanted, steps)) < wanted:
            return [f"the warm-up takes {warmup} steps, half of the run, not optim.warmup_steps={wanted}"]
        return []

    def watch(self, record: Record) -> list[str]:
        """What ``record``, the newest, brings to light; nothing at the end of the run, which has its `summary`."""
        self._records.append(record)
        if record["step"] >= setting(self._config, "run.steps"):
            return []
        found = findings(self._records, self._config)
        new = [line for key, line in found.items() if key not in self._lasting]
        self._lasting = set(found)
        return new

    def length(self, eta: Eta) -> str:
        """A run that nobody will wait for; told once."""
        if eta.seconds < _HOPELESS or self._length_told:
            return ""
        self._length_told = True
        return (
            f"at this pace the run takes {eta}; try fewer run.steps, a smaller --model or run.batch_size, or a faster "
            "device"
        )

    def summary(self) -> list[str]:
        """As `summary`, of the records so far."""
        return summary(self._records, self._config)

    def nothing_to_learn(self, clips: int) -> str:
        """Why no pair of the run had a loss in so many clips."""
        used = [name for name in MISSING if setting(self._config, f"model.loss.{_weight(name)}", 0) > 0]
        missing, ways = (
            " and ".join(MISSING[name] for name in used),
            [_SOURCES[name] for name in used if name in _SOURCES],
        )
        return "; ".join([f"{missing} in {clips} clips: there is no pair to learn from", *ways])


def summary(records: Sequence[Record], config: Record) -> list[str]:
    """At the end of a run: which pairs are below their chance, and then what was found; little or nothing of a run that
    was too short, or recorded no chance."""
    if not records:
        return []
    found = findings(records, config, ended=records[-1]["step"] >= setting(config, "run.steps", 0))
    learned = [
        f"{SHORT[name]} {records[-1][name]:.2f} (chance {chance:.2f})"
        for name, chance in _chances(records[-1])
        if not {name, "all"} & found.keys() and _stretch(records, config)[1] >= _SOON
    ]
    return [*([f"learned: {', '.join(learned)}"] if learned else []), *found.values()]


def findings(records: Sequence[Record], config: Record, ended: bool = False) -> dict[str, str]:
    """What is wrong after the last of ``records``: lines by what they are about, the name of a loss or "all".

    Args:
        config: nested; a key that it lacks is not needed.
        ended: whether the run is over, so that what may still come does not count.
    """
    last, (part, count) = records[-1], _stretch(records, config)
    steps, warmup = setting(config, "run.steps", 0), setting(config, "optim.warmup_steps", 0)
    judged = count >= max(_FEWEST, warmup_of(warmup, steps)) and (count >= _MANY or 2 * last["step"] >= steps)
    judged |= ended and count >= _SOON
    pairs = dict(_chances(last))
    found = dict(_missing(records, config, ended))
    late = count >= max(_SOON, min(warmup, steps // 4)) and (count >= _MANY or _THIRD * last["step"] >= steps)
    collapsed = {name: _collapsed(records, name) if late or (ended and count >= _SOON) else [] for name in pairs}
    behind = [name for name in pairs if not collapsed[name] and judged and _gain(part, name) < _MARGIN]
    for name, sides in collapsed.items():
        if sides:
            spread = " and ".join(f"{side} (mean cosine {cosine:.3f})" for side, cosine in sides)
            found[name] = (
                f"{SHORT[name]}: embeddings of different clips are the same: {spread}; try {_apart(sides, config)}"
            )
    if len(behind) == len(pairs) > 1:
        found["all"] = f"no pair is below its chance {_since(part)}: {_figures(part, behind)}; try {_restless(config)}"
        return found
    for name in behind:
        ways = _restless(config) if len(pairs) == 1 else _more(name, config)
        found[name] = f"{_figures(part, [name])} is not below its chance {_since(part)}; try {ways}"
    return found


def _chances(record: Record) -> Iterator[tuple[str, float]]:
    """The losses that can tell something, with their chance."""
    for name in MISSING:
        chance = record.get(name.replace("_loss", "_chance"))
        if chance and math.isfinite(record.get(name, math.nan)):
            yield name, chance


def _stretch(records: Sequence[Record], config: Record) -> tuple[list[Record], int]:
    """Records of the last half of the steps since the warm-up, evenly chosen and the last among them; and the number of
    those steps."""
    warmup = warmup_of(setting(config, "optim.warmup_steps", 0), setting(config, "run.steps", 0))
    last = records[-1]["step"]
    count = last - max(warmup, records[0]["step"] - 1)
    part = records[bisect_right(records, last - count / 2, key=lambda record: record["step"]) :]
    every = max(1, -(-len(part) // _MOST))
    return list(part[::-every][::-1]), count


def _gain(part: Sequence[Record], name: str) -> float:
    """By which share of its chance a loss is below that, in the mean."""
    chance = name.replace("_loss", "_chance")
    known = [record for record in part if record.get(chance) and math.isfinite(record.get(name, math.nan))]
    return 1 - sum(record[name] for record in known) / sum(record[chance] for record in known)


def _figures(part: Sequence[Record], names: Sequence[str]) -> str:
    last = part[-1]
    chances = dict(_chances(last))
    return ", ".join(f"{SHORT[name]} {last[name]:.3f} (chance {chances[name]:.3f})" for name in names)


def _since(part: Sequence[Record]) -> str:
    return f"in steps {part[0]['step']} to {part[-1]['step']}" if len(part) > 1 else f"at step {part[0]['step']}"


def _collapsed(records: Sequence[Record], name: str) -> list[tuple[str, float]]:
    """The sides of a pair whose embeddings were alike in the last two records, with the mean cosine of the last; none
    where its loss tells clips apart."""
    if _gain(records[-1:], name) >= _MARGIN:
        return []
    pair = name.removesuffix("_loss")
    before = {side for record in records[-2:-1] for side, cosine in cosines(record, pair) if cosine > _COLLAPSED}
    return [(side, cosine) for side, cosine in cosines(records[-1], pair) if cosine > _COLLAPSED and side in before]


def _missing(records: Sequence[Record], config: Record, ended: bool) -> Iterator[tuple[str, str]]:
    """Pairs for which no clip had what it takes."""
    clips = (records[-1]["step"] - records[0]["step"] + 1) * setting(config, "run.batch_size", 1)
    for name, what in MISSING.items():
        chance = name.replace("_loss", "_chance")
        if (ended or clips >= _CLIPS) and all(record.get(chance) == 0 for record in records):
            ways = [_SOURCES[name]] if name in _SOURCES else []
            ways.append(f"model.loss.{_weight(name)}=0 leaves the pair out")
            yield name, f"{SHORT[name]}: {what} in {clips:,} clips, so it learns nothing; {'; '.join(ways)}"


def _weight(name: str) -> str:
    """The setting of a pair's weight: vid_txt_weight for "vidtxt_loss"."""
    return f"{name[:3]}_{name[3:6]}_weight"


def _apart(sides: Sequence[tuple[str, float]], config: Record) -> str:
    """What keeps embeddings apart."""
    level = _level(config) if any(side == "audio" for side, _ in sides) else ""
    return f"{level}a lower optim.lr (now {setting(config, 'optim.lr'):g}) or a longer optim.warmup_steps"


def _level(config: Record) -> str:
    return "model.input.audio_level=rms, " if setting(config, "model.input.audio_level") == "as_is" else ""


def _restless(config: Record) -> str:
    """What gets a run going that learns nothing at all."""
    rate, warmup = setting(config, "optim.lr"), setting(config, "optim.warmup_steps")
    return f"a higher or lower optim.lr (now {rate:g}), a longer optim.warmup_steps (now {warmup}), or more run.steps"


def _more(name: str, config: Record) -> str:
    """What helps a pair that lags behind another one."""
    level = _level(config) if "aud" in name else ""
    parts = " (engine.contrastive_parts fits it into memory)" if setting(config, "engine.contrastive_parts") else ""
    return f"{level}more run.steps, a larger run.batch_size{parts}, or another optim.lr"
