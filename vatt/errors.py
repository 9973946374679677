"""The base of every error that a user can mend, and names of files and captions as a terminal may have them."""

from __future__ import annotations

import re

# Control characters (of which a terminal makes colours, titles and moves of the cursor), marks that turn the direction
# of what follows, separators of lines, and the lone surrogates of names that are not UTF-8, which cannot be printed.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A fault in what the user gave: a file, an option, a value. The message names the file and the field.

    Commands print such an error in one line and exit with 1; any other exception is a fault of this project.
    """


def in_short(message: str, most: int = 1000) -> str:
    """A message without its middle where it is longer, as one that quotes a value of a damaged file may be."""
    return message if len(message) <= most else f"{message[: most * 3 // 4]} ... {message[-most // 5 :]}"


def printable(text: object, keep: str = "") -> str:
    r"""What a terminal may print of text that comes from files: a name, a caption, a message with one of them.

    Control characters and what else would change how the rest looks are written as in Python (``\x1b``, ``\udcff``).

    Args:
        text: anything; its ``str``.
        keep: characters that stay, such as "\n" in text of several lines whose names were made printable before.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text))
