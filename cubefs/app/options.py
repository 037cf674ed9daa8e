"""What `-o` may say: cubefs's own options, the kernel's, and the words fstab puts there for others.

Must never: accept a word it does not know: a misspelt option that is ignored is a wrong mount.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cubefs.app import limiting
from cubefs.errors import UsageError
from cubefs.model import KIB
from cubefs.store.throttle import Limits
from cubefs.store.verify import Policy
from cubefs.visible import safe

# for mount(8), systemd and other tools; they mean nothing to us
FOR_OTHERS = frozenset(["defaults", "_netdev", "auto", "noauto", "nofail", "loud", "silent"]) | frozenset(
    ["user", "users", "nouser", "owner", "group", "rw", "async", "exec", "suid", "dev"]
)
FOR_OTHERS_PREFIXES = ("x-", "X-", "comment=", "user=")
# handed on to the kernel, which enforces them
FOR_KERNEL = frozenset(
    ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "dirsync", "sync"]
)

_SIZE = re.compile(r"(\d+)([KMGT]?)(?:I?B)?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h)?")
_TIME_UNITS_S = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}

HELP = """\
mount options (-o):
  ro                    read only
  allow_other           let all users in, as the mode bits say (the default when root mounts)
  no_allow_other        only the user who mounts
  snapdir=listed|hidden whether `snapshots` is listed in the root; hidden, it can still be entered
  cache_size=10G        how much disk the cache may take (data not yet stored is never evicted)
  dirty_limit=64M       how much written data waits in memory before writers wait
  commit_interval=5s    how soon written data is on the local disk without fsync
  recovery_point=60s    how soon it is in the store without `cubefs sync`
  read_timeout=60s      how long a read waits for the store before it fails with EIO
  verify=full           how packs are looked at after their upload: full (read back and compared), head (only
                        their size is asked for), sample:10% (that part of them in full, of the others the size)
  settle=0s             how long an upload rests before it is looked at, for stores that are slow to show it
  up=10MB/s down=none   how fast data may go to the store and come from it (`cubefs limit` changes it later)
  put=100/5s get=none list=none delete=none
                        how many requests of a kind may be made in a time
  cache_dir=DIR         same as --cache-dir
  passphrase_file=FILE  same as --passphrase-file
  nonempty              mount on a directory that is not empty
  nosuid nodev noexec noatime ...  as in mount(8)
"""


@dataclass(frozen=True)
class MountOptions:
    """All `-o` options, understood. None: not given, the file system's own default holds."""

    read_only: bool = False
    allow_other: bool | None = None
    snapdir_hidden: bool = False
    cache_limit_bytes: int | None = None
    dirty_limit_bytes: int | None = None
    commit_interval_s: float | None = None
    recovery_point_s: float | None = None
    read_timeout_s: float | None = None
    verify: Policy | None = None
    settle_s: float | None = None
    limits: Limits = field(default_factory=Limits)
    cache_dir: Path | None = None
    passphrase_file: Path | None = None
    nonempty: bool = False
    kernel: frozenset[str] = field(default_factory=frozenset)


def parse(groups: Sequence[str], *, sloppy: bool = False) -> MountOptions:
    """Understand the values of all `-o` arguments; the last of two that contradict each other wins.

    Raises UsageError naming the first word that is not an option; with `sloppy`, mount(8)'s -s, such a word is
    passed by.
    """
    options = MountOptions()
    for word in _words(groups):
        key, separator, value = word.partition("=")
        if word in FOR_OTHERS:
            if word == "rw":
                options = replace(options, read_only=False)
        elif word.startswith(FOR_OTHERS_PREFIXES):
            continue
        elif word in FOR_KERNEL:
            options = replace(options, kernel=options.kernel | {word})
        elif word in _FLAGS:
            options = replace(options, **_FLAGS[word])
        elif key in _VALUES and separator:
            name, understand = _VALUES[key]
            options = replace(options, **{name: understand(key, value)})
        elif key in limiting.WORDS and separator:
            options = replace(options, limits=limiting.changed(options.limits, {key: value}))
        elif key in _VALUES or key in limiting.WORDS:
            raise UsageError(f"the mount option {key} needs a value: -o {key}=...")
        elif not sloppy:
            raise UsageError(f"unknown mount option {safe(word)!r}; cubefs mount --help lists them all")
    return options


def _words(groups: Sequence[str]) -> list[str]:
    """Split at commas; `\\,` is a comma within a value, as in fuse's own options."""
    words = [
        word.replace("\\,", ",").replace("\\\\", "\\")
        for group in groups
        for word in re.findall(r"(?:\\.|[^,\\])+", group)
    ]
    return [word for word in words if word]


def _size(key: str, value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{key}={safe(value)} is not a size; write for example {key}=512M")
    return int(match[1]) * int(KIB ** " KMGT".index(match[2].upper() or " "))


def _time(key: str, value: str) -> float:
    match = _TIME.fullmatch(value)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{key}={safe(value)} is not a time; write for example {key}=30s")
    return float(match[1]) * _TIME_UNITS_S[match[2]]


def _settle(key: str, value: str) -> float:
    return 0.0 if value in ("0", "0s") else _time(key, value)


def _policy(key: str, value: str) -> Policy:
    return Policy.parse(value)


def _path(key: str, value: str) -> Path:
    if not value:
        raise UsageError(f"the mount option {key} needs a value: -o {key}=...")
    return Path(value)


def _snapdir(key: str, value: str) -> bool:
    if value not in ("hidden", "listed"):
        raise UsageError(f"{key}={safe(value)} is neither snapdir=hidden nor snapdir=listed")
    return value == "hidden"


_FLAGS: dict[str, dict[str, Any]] = {
    "ro": {"read_only": True},
    "allow_other": {"allow_other": True},
    "no_allow_other": {"allow_other": False},
    "nonempty": {"nonempty": True},
}

_VALUES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "snapdir": ("snapdir_hidden", _snapdir),
    "cache_size": ("cache_limit_bytes", _size),
    "dirty_limit": ("dirty_limit_bytes", _size),
    "commit_interval": ("commit_interval_s", _time),
    "recovery_point": ("recovery_point_s", _time),
    "read_timeout": ("read_timeout_s", _time),
    "verify": ("verify", _policy),
    "settle": ("settle_s", _settle),
    "cache_dir": ("cache_dir", _path),
    "passphrase_file": ("passphrase_file", _path),
}
