"""`cubefs fsck`, `fsck.cubefs`, `cubefs.fsck`: audit a store and report.

Must never: repair, or write anything into the store.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cubefs.app import arguments, cache
from cubefs.app.kernel import keep_secrets_in_memory
from cubefs.app.passphrase import read_passphrase

SUMMARY = "audit a store: is everything there, and what it should be"
DESCRIPTION = """\
Audit the file system in the store at URL, as of the last commit that reached it: is the metadata consistent, is
every object there that it needs. With --data everything is downloaded, decrypted and compared with its hash. What
is wrong is reported with the files and snapshots it affects. Nothing is changed. (It is an audit for peace of mind:
after a crash nothing needs to be checked.)

Where this machine has a cache directory of the file system, what waits there for the store is reported, too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    arguments.add_url(parser)
    parser.add_argument("--data", action="store_true", help="also download and verify all contents")
    arguments.add_cache_dir(parser)
    arguments.add_passphrase_file(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def add_fsck8_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command, with what fsck(8) passes on to such programs."""
    add_arguments(parser)
    for letter in "apynf":
        parser.add_argument(f"-{letter}", action="store_true", help="accepted for fsck(8), without effect")


def run(namespace: argparse.Namespace) -> int:
    """Audit, print the report, return the code of fsck(8)."""
    from cubefs.engine.unlock import read_superblock, unlock
    from cubefs.fsck.progress import ProgressBar
    from cubefs.fsck.run import audit
    from cubefs.store import open_store
    from cubefs.store.retry import Retrying

    keep_secrets_in_memory()
    store = Retrying(open_store(namespace.url))
    superblock, _ = read_superblock(store)
    passphrase = read_passphrase(file=namespace.passphrase_file, what_for=store.describe())
    superblock, superblock_bytes, keyring = unlock(store, passphrase)
    with ProgressBar() as progress:
        report = audit(
            store,
            keyring=keyring,
            superblock=superblock,
            superblock_bytes=superblock_bytes,
            data=namespace.data,
            progress=progress,
            cache_dir=_existing_cache(superblock.uuid, given=namespace.cache_dir),
        )
    if namespace.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        sys.stdout.write(report.text())
    return report.exit_code


def _existing_cache(uuid: bytes, *, given: Path | None) -> Path | None:
    """Return the cache directory of this file system where there is one."""
    directory = cache.directory_for(uuid, given=given)
    return directory if cache.is_owned_by(directory, uuid) else None
