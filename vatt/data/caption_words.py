"""Words in captions that augmentation would make untrue: left and right, if pictures are mirrored, and colours, if hues
are turned.

Dictionaries of a few languages, not a parser. In English, "left" and "right" are mostly something else ("she left",
"all right"), so there they count only where they say a direction.
"""

from __future__ import annotations

import re

# "left and right" and "from side to side" stay true in a mirror, so they do not count.
_BOTH = re.compile(
    r"\b(left (and|or|to the) right|right (and|or) left|links (und|oder|en|of) rechts|rechts (und|oder|en|of) links|"
    r"gauche (et|ou) (à )?droite|droite (et|ou) (à )?gauche|"
    r"izquierda (y|o) (a la )?derecha|derecha (e|o) (a la )?izquierda|"
    r"sinistra (e|o) (a )?destra|destra (e|o) (a )?sinistra|esquerda (e|ou) direita|direita (e|ou) esquerda)\b"
)
_SIDE = r"(left|right)"
_NOT_A_SIDE = (
    r"(?! (now|away|ahead|past|by|through|here|there|then|before|after|at|in|into|on|up|out|over|behind|off)\b)"
)
_ENGLISH = (
    r"(left|right)(wards?|most|hand)",
    r"(anti|counter)?-?clockwise",
    rf"(to|on|from|at|by|towards?|into) (the|its|his|her|your|my|our|their) ((far|upper|lower|top|bottom) )?{_SIDE}",
    rf"{_SIDE}[ -](hand|side|arm|leg|foot|eye|ear|corner|edge|half|lane|turn|wing|wall|bank|border)s?",
    rf"(from )?{_SIDE} to {_SIDE}",
    rf"(upper|lower|top|bottom|far|front|rear|middle|cent(er|re)) {_SIDE}",
    "in the left",
    rf"(turn|go|goe|mov|slid|glid|lean|look|step|swing|driv|steer|drift|roll|run|walk|fly|flie|point|fac|jump|shift|"
    rf"scroll|pan|travel|spin|veer|swerv|kick|punch|pass|swip|dart|hop|bounc|float|head|danc|div|rac|rid|rotat|bend|"
    rf"curv|push|pull|drag|crawl|tilt)(e|s|es|ing|ning|ping|ming|d|ed)? "
    rf"(to )?{_SIDE}{_NOT_A_SIDE}",
)
_OTHERS = (  # German and Dutch, French, Spanish, Italian, Portuguese: whole words that are seldom anything else
    *("links", "rechts", "linken?", "linke[rs]", "rechten", "linkerkant", "rechterkant"),
    *("gauche", r"(à|a|de|la|vers la) droite"),
    *("izquierd[ao]s?", r"(a|la|de|por) derecha"),
    *("sinistr[ao]", r"(a|la|di|verso) destra"),
    *("esquerd[ao]s?", r"(à|a|da|na|para a) direita"),
)
_DIRECTION = re.compile(rf"\b({'|'.join((*_ENGLISH, *_OTHERS))})\b")
_CHARACTERS = re.compile("[左右]")  # Chinese and Japanese have no spaces
# "two steps left" and "no turns left" are what remains.
_REMAINING = re.compile(
    r"\b(no|any|some|few|many|several|one|two|three|four|five|six|seven|eight|nine|ten|\d+) (more |last )?"
    r"\w+ left\b"
    r"(?! (hand|side|arm|leg|foot|eye|ear|corner|edge|half|lane|turn|wing|wall|bank|border))"
)
_IDIOMS = re.compile("(?:左右|右左)")  # "about", or both sides

# Black, white and grey stay what they are when hues are turned.
_HUES = (
    *(
        "red",
        "orange",
        "yellow",
        "green",
        "cyan",
        "blue",
        "purple",
        "violet",
        "pink",
        "magenta",
        "brown",
        "golden",
        "beige",
    ),
    *(
        "crimson",
        "scarlet",
        "amber",
        "turquoise",
        "emerald",
        "navy",
        "reddish",
        "yellowish",
        "greenish",
        "bluish",
        "blond",
    ),
    *("rot(e[nrsm]?)?", "gelb(e[nrsm]?)?", "grün(e[nrsm]?)?", "blau(e[nrsm]?)?", "lila", "rosa", "braun(e[nrsm]?)?"),
    *("rouges?", "jaunes?", "verte?s?", "bleue?s?", "violette?s?", "roses?", "marron"),
    *("roj[ao]s?", "amarill[ao]s?", "verdes?", "azul(es)?", "morad[ao]s?", "rosad[ao]s?", "naranja"),
    *("ross[aoie]", "giall[aoie]", "blu", "azzurr[aoie]", "arancione", "marrone"),
    *("vermelh[ao]s?", "amarel[ao]s?", "azuis", "rox[ao]s?", "laranja"),
    *("rood", "geel", "gele", "groene?", "blauwe?", "paarse?", "oranje"),
)
_HUE = re.compile(rf"\b({'|'.join(_HUES)})\b")
_HUE_CHARACTERS = re.compile("[红紅赤黄黃绿綠緑蓝藍青紫]")


def tells_left_from_right(sentence: str) -> bool:
    """Whether a mirrored picture would belie the sentence."""
    said = " ".join(sentence.lower().replace("-", " ").split())
    said = _REMAINING.sub(" ", _BOTH.sub(" ", said))
    return bool(_DIRECTION.search(said)) or bool(_CHARACTERS.search(_IDIOMS.sub("", said)))


def names_hue(sentence: str) -> bool:
    """Whether a picture whose hues are turned would belie the sentence."""
    said = sentence.lower()
    return bool(_HUE.search(said)) or bool(_HUE_CHARACTERS.search(said))
