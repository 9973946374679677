"""JSON that any file name can be written in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as JSON in one line: letters as they are, but everything escaped if a name of a file is not UTF-8.

    Such names come as lone surrogates (`os.fsdecode`), which no UTF-8 file can hold; escaped they come back the same.
    """
    text = json.dumps(value, ensure_ascii=False, default=default)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=default)
    return text
