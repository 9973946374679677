"""Caption files beside a video: by which names they are found, and which is read where there are several.

``NAME.srt``, in any case (``NAME.SRT``), after the name of the video (``NAME.mp4.srt``), with a language by ISO 639 and
what players add to it (``NAME.en.vtt``, ``NAME.en-US.vtt``, ``NAME.zh-Hans.vtt``, ``NAME.en.forced.srt``).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from vatt.files import KINDS

SIDECARS = (".srt", ".vtt", ".ass", ".ssa", ".json", ".txt")  # the first that is there is read
_MEDIA = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)
_FLAGS = {"forced", "foreign", "sdh", "cc", "auto", "orig", "default", "full"}
_CODE = re.compile(r"([a-z]{2,3})(?:[-_][a-z\d]{1,16})*", re.IGNORECASE)
# ISO 639-1, and of ISO 639-2 the codes of the most common languages, in both forms where there are two.
_LANGUAGES = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu iw ja
    jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd
    ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss
    st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu eng ger deu fre
    fra spa ita por dut nld swe nor nob nno dan fin ice isl pol cze ces slo slk slv hrv srp bos mac mkd bul rum ron hun
    gre ell rus ukr bel lit lav est tur ara heb per fas hin urd ben tam tel mal kan mar guj pan sin nep tha vie ind may
    msa fil tgl chi zho cmn yue jpn kor mon geo kat arm hye aze kaz uzb amh swa afr cat glg baq eus gle wel cym lat und
    mul mis
    """.split()  # noqa: SIM905
)


class Sidecars:
    """The caption files of folders, each listed once. Not of use while files come and go.

    Attributes:
        unread: language -> number of videos whose captions in it were left for those in another one.
        read: language -> number of those videos that it was read for; "" is a file without a language.
    """

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self._named: dict[Path, dict[str, list[tuple[str, str]]]] = {}  # folder -> stem -> (name, language)

    def of(self, video: Path) -> list[Path]:
        """The caption files of a video, the first choice first: without a language, in English, in another one; of
        those, in the order of `SIDECARS`."""
        found: list[tuple[str, Path]] = []
        for suffix in SIDECARS:
            if (path := video.with_suffix(suffix)).is_file():
                found.append(("", path))
        if video.parent not in self._named:
            self._named[video.parent] = _list(video.parent)
        named = self._named[video.parent]
        names = [*named.get(video.stem, ()), *named.get(video.stem + video.suffix.lower(), ())]
        found += [(language, video.with_name(name)) for name, language in names]
        found.sort(key=_order)
        if len(languages := dict.fromkeys(language for language, _ in found)) > 1:
            chosen, *others = languages
            self.read[chosen] += 1
            self.unread.update(others)
        return [path for _, path in found]

    def note(self) -> str | None:
        """In a line, for people: which languages were read where there were several; None if there were none."""
        if not self.read:
            return None

        def counts(found: Counter[str]) -> str:
            return ", ".join(f"{name or 'the file without a language'} {n}" for name, n in found.most_common(6))

        return (
            f"captions beside {self.read.total()} videos are in several languages; read: {counts(self.read)}; not "
            f"read: {counts(self.unread)} (a file without a language comes first, then en)"
        )


def _order(found: tuple[str, Path]) -> tuple[int, str, bool, int, str]:
    language, path = found
    base = language.lower().replace("_", "-").split("-")[0]
    rank = 0 if not language else 1 if base in ("en", "eng") else 2
    forced = any(part.lower() in ("forced", "foreign") for part in path.name.split("."))
    return rank, language.lower(), forced, SIDECARS.index(path.suffix.lower()), path.name


def _list(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Stem of a video (or its name) -> (name, language) of the caption files that are not simply STEM.srt."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return {}
    videos = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in _MEDIA}
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        root, suffix = os.path.splitext(name)
        if suffix.lower() in SIDECARS and not name.startswith("."):
            for stem, language in _owners(root):
                if stem == root and suffix in SIDECARS and not stem.lower().endswith(_MEDIA):
                    continue  # is looked for by its name
                if stem != root and root in videos:
                    continue  # NAME.en.srt is that of NAME.en.mp4
                found[stem].append((name, language))
    return dict(found)


def _owners(root: str) -> Iterator[tuple[str, str]]:
    """(stem, language) of the videos that a caption file without its suffix may be of."""
    language = ""
    for _ in range(4):
        stem, suffix = os.path.splitext(root)
        yield (stem + suffix.lower() if suffix.lower() in _MEDIA else root), language
        word = suffix[1:]
        code = _CODE.fullmatch(word)
        if code is not None and code[1].lower() in _LANGUAGES:
            language = word
        elif word.lower() not in _FLAGS:
            return
        root = stem
