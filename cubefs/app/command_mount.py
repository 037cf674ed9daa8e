"""`cubefs mount`, `mount.cubefs`: everything that can be found wrong is found here, before going to the background.

Must never: start a thread or an event loop before the fork.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cubefs.app import arguments, cache, daemon, kernel, logs, mountpoint, options
from cubefs.app.display import say
from cubefs.app.edge import root_cause
from cubefs.app.options import MountOptions
from cubefs.app.passphrase import read_passphrase
from cubefs.errors import (
    LocalDiskError,
    MountPointError,
    ObjectExistsError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.visible import safe

if TYPE_CHECKING:
    from cubefs.app.mounted import MountPlan
    from cubefs.engine.unlock import Locks
    from cubefs.store import Store

SUMMARY = "mount a file system"
DESCRIPTION = """\
Mount the file system at URL on the empty directory DIR. The command returns when the mount answers; a process in
the background serves it and stores what is written. `cubefs umount DIR` unmounts and returns when everything is
stored; after plain umount(8) the process goes on storing, then ends.

After a crash just mount again: nothing needs to be checked or repaired.
"""
FSTAB_DESCRIPTION = """\
The helper that mount(8) calls for a line in /etc/fstab such as

  local:///srv/backup /mnt/backup cubefs noauto,passphrase_file=/etc/cubefs/passphrase 0 0
"""
FUSE_DEVICE = Path("/dev/fuse")
STORE_ATTEMPTS = 4  # some seconds, then the cache directory must do
STORE_PATIENCE_S = 20.0  # however long the store asks to be left alone, or takes to fail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    arguments.add_url(parser)
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory to mount on")
    parser.add_argument("-o", dest="options", metavar="OPTIONS", action="append", default=[], help="see below")
    parser.add_argument("--foreground", action="store_true", help="stay; Ctrl-C unmounts and stores what is left")
    arguments.add_cache_dir(parser)
    arguments.add_passphrase_file(parser)
    parser.set_defaults(run=run, sloppy=False, fake=False)


def add_fstab_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what mount(8) passes to its helpers."""
    add_arguments(parser)
    parser.add_argument("-s", dest="sloppy", action="store_true", help="pass by unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="check everything, but do not mount")
    parser.add_argument("-n", action="store_true", help="accepted for mount(8)")
    parser.add_argument("-v", action="store_true", help="accepted for mount(8)")
    parser.add_argument("-t", metavar="TYPE", help="accepted for mount(8)")


def run(namespace: argparse.Namespace) -> int:
    """Check, go to the background, mount."""
    given = options.parse(namespace.options, sloppy=namespace.sloppy)
    given = replace(
        given,
        cache_dir=namespace.cache_dir or given.cache_dir,
        passphrase_file=namespace.passphrase_file or given.passphrase_file,
    )
    kernel.keep_secrets_in_memory()
    _check_fuse()
    target = mountpoint.check(namespace.directory, nonempty=given.nonempty)
    plan = prepare(namespace.url, target, given)
    if namespace.fake:
        return 0
    serve = _deferred_serve(plan)
    log = plan.cache.log
    if namespace.foreground:
        os.chdir("/")  # the mount must not be kept busy by ourselves
        _start_log(log, foreground=True)
        try:
            return serve(lambda: None)
        except BaseException as error:
            logs.log_end(root_cause(error))
            raise
    return daemon.detach(serve, start_log=lambda: _start_log(log, foreground=False), log=log)


def prepare(url: str, target: Path, given: MountOptions) -> MountPlan:
    """Open the store, the cache directory and the keys; the passphrase is asked for when all else is in order."""
    from cubefs.app.mounted import MountPlan
    from cubefs.app.remembered import remember
    from cubefs.engine.unlock import open_locks
    from cubefs.store import open_store
    from cubefs.store.retry import Retrying, sleep_in_all

    store = Retrying(
        open_store(url),
        attempts=STORE_ATTEMPTS,
        sleep=sleep_in_all(STORE_PATIENCE_S),
        on_retry=_giving_up_after(STORE_PATIENCE_S),
    )
    scheme, _, place = store.describe().partition("://")
    if scheme == "local":
        mountpoint.check_apart(target, places=[("the store", Path(place))])
    locks, is_store_up = _fetch_locks(store, given)
    superblock = locks.superblock
    directory = cache.directory_for(superblock.uuid, given=given.cache_dir)
    mountpoint.check_apart(target, places=[("the cache directory", directory)])
    opened = cache.open_cache(directory, uuid=superblock.uuid, mount_point=target, on_wait=_tell_waiting)
    if is_store_up and not given.read_only:
        _check_writable(store, locks)
    passphrase = read_passphrase(file=given.passphrase_file, what_for=store.describe())
    keyring = open_locks(locks, passphrase)
    if is_store_up:
        remember(directory, url=store.describe(), locks=locks)
    return MountPlan(
        store_url=store.describe(),
        mount_point=target,
        options=given,
        allow_other=os.geteuid() == 0 if given.allow_other is None else given.allow_other,
        cache=opened,
        superblock=superblock,
        keyring=keyring,
    )


def _giving_up_after(patience_s: float) -> Callable[[str, int, StoreError], None]:
    """Return what ends the attempts of a `Retrying` when the time is over: a store that is silent fails late."""
    deadline_s = time.monotonic() + patience_s

    def check(verb: str, failed_attempts: int, error: StoreError) -> None:
        if time.monotonic() >= deadline_s:
            raise error

    return check


def _fetch_locks(store: Store, given: MountOptions) -> tuple[Locks, bool]:
    """Return superblock and key slots, and whether they come from the store; otherwise the cache remembers them."""
    from cubefs.app.remembered import find_remembered
    from cubefs.engine.unlock import fetch_locks

    try:
        return fetch_locks(store), True
    except (StoreUnavailableError, StoreUnsuitableError) as error:  # or somebody else answers in its place
        locks = find_remembered(store.describe(), given=given.cache_dir)
        if locks is None:
            raise
        say(
            f"the store does not answer ({error}); mounting from the cache directory. Not checked: whether another"
            " machine has written since, or the passphrase was changed. What is written waits for the store"
        )
        return locks, False


def _check_writable(store: Store, locks: Locks) -> None:
    """Raise StoreDeniedError for credentials that may only read: better now than at the first upload.

    A conditional put of an object that exists changes nothing, but only a writer is told that it exists.
    """
    from cubefs.format import names

    try:
        store.put_new(names.SUPERBLOCK, locks.superblock_bytes)
    except StoreDeniedError as error:
        raise StoreDeniedError(
            f"{store.describe()} may only be read with these credentials: mount with -o ro, or use others ({error})"
        ) from error
    except StoreError as error:
        if not isinstance(error, ObjectExistsError):
            say(f"cannot tell whether the store may be written to: {error}")


def _check_fuse() -> None:
    if not FUSE_DEVICE.exists():
        raise MountPointError(f"{FUSE_DEVICE} is missing: load the kernel module with `modprobe fuse` as root")
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountPointError(
            f"no permission for {FUSE_DEVICE}: mount as root, or let root run: chmod 666 {FUSE_DEVICE}"
        )
    if os.geteuid() != 0:
        kernel.fusermount()


def _tell_waiting(holder: cache.Holder) -> None:
    say(
        f"waiting for process {holder.pid}, which is still storing what was written to"
        f" {safe(holder.mount_point)} (Ctrl-C to give up)"
    )


def _start_log(path: Path, *, foreground: bool) -> None:
    try:
        logs.start(path, foreground=foreground)
    except OSError as error:
        raise LocalDiskError(f"cannot write the log {safe(path)}: {error.strerror}") from error


def _deferred_serve(plan: MountPlan) -> Callable[[Callable[[], None]], int]:
    """Load the event loop's modules now, so that the background process only starts what is there."""
    from cubefs.app.serving import serve

    return lambda ready: serve(plan, ready)
