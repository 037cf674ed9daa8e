"""Names and messages made fit for a terminal or a log.

Must never: let a byte of a file name reach a terminal that could move its cursor or change its colours.
Imports nothing of cubefs.
"""

from __future__ import annotations

import os
from pathlib import PurePath


def safe(name: str | bytes | PurePath) -> str:
    """Return a file name fit for a terminal; two different names never look the same.

    Bytes that are not UTF-8 become `\\xff`, control and invisible characters `\\n`, `\\x1b` or `\\u202e`, and a
    backslash is doubled.
    """
    text = os.fsdecode(name)
    return "".join("\\\\" if char == "\\" else _visible(char) for char in text)


def one_line(message: str) -> str:
    """Return a whole message as one line without control characters; names in it may have been `safe` already."""
    return "".join(_visible(char) for char in message.strip())


def _visible(char: str) -> str:
    code = ord(char)
    if char.isprintable():
        return char
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
