"""Chunking: where a file is cut into blocks. The only door to `pyfastcdc`.

Must never: decide anything that a reader depends on. Cutting differently costs deduplication, nothing else.
"""

from __future__ import annotations

from typing import Final

from pyfastcdc import FastCDC

from cubefs.model import BLOCK_MAX_BYTES, KIB, Chunking

MIN_BYTES = 256 * KIB  # content chunking never cuts before; a shorter file is one block
MAX_BYTES = BLOCK_MAX_BYTES

# FastCDC counts from the minimum on, so its parameter is less than the average that comes out. Measured on 400 MiB
# of random data: 864 KiB at normalization level 2 give 1,025 KiB on average (level 1: 768 KiB give 1,079), and a
# byte inserted costs 1,036 KiB of new blocks (level 1: 1,331), because the sizes spread less.
_PARAMETER_BYTES = 864 * KIB
_NORMALIZATION: Final = 2


class Chunker:
    """Cuts runs of a file's data into blocks. Any thread, several at once."""

    def __init__(self, mode: Chunking, seed: int) -> None:
        """`seed`: 0 to 2**63 - 1, per file system, so that block sizes do not identify known files."""
        if not 0 <= seed < 2**63:
            raise ValueError("the chunk seed has 63 bits")
        self._mode = mode
        self._seed = seed

    def cut(self, data: memoryview) -> list[int]:
        """Return the lengths of the blocks that `data` is cut into, in order; their sum is its length.

        Each is at most BLOCK_MAX_BYTES. FIXED: all but the last are exactly that. CONTENT: all but the last
        are at least MIN_BYTES. For a worker thread (5 GB/s); releases the GIL.
        """
        if self._mode is Chunking.FIXED:
            return _cut_fixed(len(data))
        if len(data) <= MIN_BYTES:
            return [len(data)] if len(data) else []
        # A FastCDC object is not to be shared between threads; making one takes 10 µs.
        cutter = FastCDC(
            _PARAMETER_BYTES,
            min_size=MIN_BYTES,
            max_size=MAX_BYTES,
            normalized_chunking=_NORMALIZATION,
            seed=self._seed,
        )
        return [chunk.length for chunk in cutter.cut_buf(data)]


def _cut_fixed(size_bytes: int) -> list[int]:
    full, rest = divmod(size_bytes, BLOCK_MAX_BYTES)
    return [BLOCK_MAX_BYTES] * full + ([rest] if rest else [])
