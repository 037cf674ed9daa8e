"""Every error that cubefs raises on purpose, with its errno, exit code and whether trying again can help.

This module imports nothing of cubefs. Libraries' exceptions are translated where they arise and never leave
the module that calls the library. The FUSE edge turns `errno` into the answer to the kernel, the command line
turns `exit_code` into the process's exit status; nobody else decides about either.
"""

from __future__ import annotations

import errno


class CubefsError(Exception):
    """Base of the tree. The message is one line for a person: what is wrong and what to do."""

    errno = errno.EIO
    exit_code = 1
    retryable = False


# -- what the user gave us ----------


class UsageError(CubefsError):
    """A wrong option, URL or argument."""

    errno = errno.EINVAL
    exit_code = 2


class WrongPassphraseError(CubefsError):
    """No key slot opens under the given passphrase or recovery key."""

    errno = errno.EACCES
    exit_code = 3


class NotCubefsError(CubefsError):
    """The store holds no cubefs file system (or the store itself is not there)."""

    errno = errno.ENOENT
    exit_code = 4


class UnsupportedVersionError(CubefsError):
    """Written by a newer format version, or with a cipher suite we do not know."""

    errno = errno.EPROTONOSUPPORT
    exit_code = 5


class AlreadyExistsError(CubefsError):
    """mkfs found a file system in the store."""

    errno = errno.EEXIST
    exit_code = 6


class InUseError(CubefsError):
    """The cache directory, the mount point or the file system is in use by somebody else."""

    errno = errno.EBUSY
    exit_code = 7


class MountPointError(CubefsError):
    """The mount point is missing, not a directory, not empty, or holds no cubefs mount."""

    errno = errno.ENOTDIR
    exit_code = 7


class CacheMismatchError(CubefsError):
    """The cache directory belongs to another file system."""

    errno = errno.EINVAL
    exit_code = 7


class UserInterruptError(CubefsError):
    """Ctrl-C, at a prompt or while waiting."""

    errno = errno.EINTR
    exit_code = 130


# -- the store ----------


class StoreError(CubefsError):
    """The object store did not do what it was asked."""

    exit_code = 8


class ObjectMissingError(StoreError):
    """The named object is not in the store."""

    errno = errno.EIO


class ObjectExistsError(StoreError):
    """A conditional put found the name taken."""

    errno = errno.EEXIST


class NoStoreError(StoreError):
    """The bucket or container itself does not exist: nothing is said about objects in it."""

    errno = errno.EIO
    exit_code = NotCubefsError.exit_code


class StoreUnavailableError(StoreError):
    """The store does not answer, or not properly: trying again later can help.

    `retry_after_s`: how long the store asks us to wait at least (RFC 9110, Retry-After), None if it does not.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreBusyError(StoreUnavailableError):
    """The store asks for fewer requests: 503 and 429."""


class StoreFullError(StoreError):
    """The store has no room: trying again helps once somebody has made some."""

    errno = errno.ENOSPC
    retryable = True


class StoreDeniedError(StoreError):
    """The store refuses us: wrong credentials, missing permission, read-only directory."""

    errno = errno.EACCES


class StoreUnsuitableError(StoreError):
    """The store cannot do something that cubefs needs, or is none: another endpoint speaks there."""


class StoreLiesError(StoreError):
    """What was read back is not what was written."""

    retryable = True


# -- data ----------


class IntegrityError(CubefsError):
    """Stored bytes are not what they must be: flipped, truncated, swapped, foreign. Names the object."""

    exit_code = 10


class FencedError(CubefsError):
    """Another machine has taken this file system over; this one must not write any more."""

    errno = errno.EROFS
    exit_code = 7


# -- this machine ----------


class LocalDiskError(CubefsError):
    """The cache disk failed to read, write or sync."""

    exit_code = 9


class LocalDiskFullError(LocalDiskError):
    """The cache disk has no room left."""

    errno = errno.ENOSPC


# -- POSIX answers ----------


class PosixError(CubefsError):
    """An answer to a system call that is no fault: ENOENT, EEXIST, ENOTEMPTY ..."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number
