"""zstd: one context per thread and decompression with a bound.

Must never: hand a decompressor input whose declared size was not checked first. `zstandard` allocates what
the frame's header declares and ignores `max_output_size` when it declares anything.
"""

from __future__ import annotations

import threading

import zstandard

from cubefs.errors import IntegrityError

LEVEL = 3  # 0.4 GB/s per core: the one step of sealing that costs
WINDOW_MAX_BYTES = 8 * 1024 * 1024  # what a truncated frame may make zstd allocate; level 3 needs 2 MiB


class _Contexts(threading.local):
    """A zstd context must not be used by two threads at once; making one costs as much as a small frame."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX_BYTES)


_contexts = _Contexts()


def compress(plain: bytes | memoryview) -> bytes:
    """Return one zstd frame that declares its content's size. Any thread; releases the GIL.

    zstd passes over what does not compress at 4 GB/s by itself: no probe before it was worth its losses.
    """
    return _contexts.compressor.compress(plain)


def decompress(compressed: bytes | memoryview, *, max_bytes: int) -> bytes:
    """Return the content of exactly one zstd frame, at most `max_bytes` long.

    Raises IntegrityError if it declares more or nothing, is damaged, or has something behind it. Any thread;
    releases the GIL.
    """
    declared = _declared_bytes(compressed)
    if declared > max_bytes:
        raise IntegrityError(f"the compressed data expands to {declared} bytes, allowed are {max_bytes}")
    try:
        plain = _contexts.decompressor.decompress(compressed, max_output_size=declared, allow_extra_data=False)
    except zstandard.ZstdError:
        raise IntegrityError("the compressed data is damaged") from None
    if len(plain) != declared:
        raise IntegrityError("the compressed data is not as long as it says")
    return plain


def _declared_bytes(compressed: bytes | memoryview) -> int:
    """Return the size that a zstd frame declares for its content; IntegrityError if it declares none."""
    try:
        declared = zstandard.frame_content_size(compressed)
    except zstandard.ZstdError:
        raise IntegrityError("the compressed data is not zstd") from None
    if declared <= 0:
        raise IntegrityError("the compressed data does not say how long its content is")
    return declared
