"""The superblock: the plaintext object that says "this is a cubefs file system", its version and its uuid.

Must never: hold anything secret or anything that matters: it is not authenticated itself. The uuid is bound
into every other object, and the first log object is chained to the hash of these bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cubefs.errors import NotCubefsError, UnsupportedVersionError
from cubefs.format.version import FORMAT_VERSION

UUID_BYTES = 16

_FIRST_LINES = re.compile(rb"cubefs\nversion ([1-9][0-9]{0,8})\n")
_WHOLE = re.compile(rb"cubefs\nversion 1\nuuid ([0-9a-f]{32})\n")


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says."""

    version: int
    uuid: bytes  # 16 bytes, random, public

    def encode(self) -> bytes:
        """Return the object's bytes."""
        if self.version != FORMAT_VERSION or len(self.uuid) != UUID_BYTES:
            raise ValueError("not a superblock of this version")
        return f"cubefs\nversion {self.version}\nuuid {self.uuid.hex()}\n".encode("ascii")

    @staticmethod
    def decode(data: bytes) -> Superblock:
        """Parse the object's bytes, strictly.

        Raises NotCubefsError if they are not ours or damaged, UnsupportedVersionError if a newer cubefs wrote
        them: then only the first two lines are looked at.
        """
        first = _FIRST_LINES.match(data)
        if first is None:
            if data.startswith(b"cubefs\n"):
                raise NotCubefsError("the object `cubefs` in the store is damaged: it names no format version")
            raise NotCubefsError("the object `cubefs` in the store is not the superblock of a cubefs file system")
        version = int(first[1])
        if version > FORMAT_VERSION:
            raise UnsupportedVersionError(
                f"the file system has format version {version}, this cubefs reads up to version "
                f"{FORMAT_VERSION}: use a newer cubefs"
            )
        whole = _WHOLE.fullmatch(data)
        if whole is None:
            raise NotCubefsError("the object `cubefs` in the store is damaged: its third line is not the uuid")
        return Superblock(version=version, uuid=bytes.fromhex(whole[1].decode("ascii")))
