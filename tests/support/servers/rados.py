"""Owns the few words with a monitor of Ceph for which there is no quick program: librados by ctypes.

Must never: be loaded into the process of the tests, librados starts threads.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Rados:
    """A connection to the monitor that a configuration names. LD_LIBRARY_PATH must lead to the library."""

    def __init__(self, conf: Path) -> None:
        self._library = ctypes.CDLL("librados.so.2")
        self._handle = ctypes.c_void_p()
        _check(self._library.rados_create(ctypes.byref(self._handle), b"admin"))
        _check(self._library.rados_conf_read_file(self._handle, str(conf).encode()))
        _check(self._library.rados_connect(self._handle))

    def __enter__(self) -> Rados:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.rados_shutdown(self._handle)

    def order(self, **command: str) -> Any:
        """Give the monitor an order; return its answer, from JSON where it is that. Raises OSError."""
        lines = (ctypes.c_char_p * 1)(json.dumps(command).encode())
        answer, complaint = ctypes.c_char_p(), ctypes.c_char_p()
        answer_size, complaint_size = ctypes.c_size_t(), ctypes.c_size_t()
        status = self._library.rados_mon_command(
            self._handle,
            lines,
            ctypes.c_size_t(len(lines)),
            None,
            ctypes.c_size_t(0),
            ctypes.byref(answer),
            ctypes.byref(answer_size),
            ctypes.byref(complaint),
            ctypes.byref(complaint_size),
        )
        if status < 0:
            raise OSError(-status, ctypes.string_at(complaint, complaint_size.value).decode(errors="replace"))
        text = ctypes.string_at(answer, answer_size.value) if answer else b""
        return json.loads(text) if text.strip().startswith((b"{", b"[")) else text


def _check(status: int) -> None:
    if status < 0:
        raise OSError(-status, os.strerror(-status))
