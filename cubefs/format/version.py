"""The format version and the cipher suite: what we write, and the refusal of what we cannot read.

Must never: guess. An object of a newer version is refused with a message that says so, not half-read.
"""

from __future__ import annotations

from cubefs.errors import IntegrityError, UnsupportedVersionError

FORMAT_VERSION = 1
SUITE = 1  # AES-256-GCM, HKDF-SHA256, Argon2id, BLAKE3-256, zstd


def check_version(what: str, *, version: int, suite: int) -> None:
    """Refuse an object that this code cannot read. `what` names the kind of object ("pack", "key slot").

    Raises UnsupportedVersionError for a newer version or an unknown suite, IntegrityError for number 0,
    which was never written.
    """
    if version == 0 or suite == 0:
        raise IntegrityError(f"the {what} claims format version {version}, suite {suite}: not valid")
    if version > FORMAT_VERSION:
        raise UnsupportedVersionError(
            f"the {what} has format version {version}, this cubefs reads up to version {FORMAT_VERSION}: "
            "use a newer cubefs"
        )
    if suite != SUITE:
        raise UnsupportedVersionError(
            f"the {what} uses cipher suite {suite}, this cubefs knows suite {SUITE} only: use a newer cubefs"
        )
