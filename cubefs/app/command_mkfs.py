"""`cubefs mkfs`, `mkfs.cubefs`: make a file system and show its recovery key, once.

Must never: print the recovery key anywhere but to stdout, or keep it.
"""

from __future__ import annotations

import argparse
import json
import time

from cubefs.app import arguments
from cubefs.app.kernel import keep_secrets_in_memory
from cubefs.app.passphrase import choose_passphrase
from cubefs.errors import AlreadyExistsError, NotCubefsError, UnsupportedVersionError
from cubefs.model import Chunking
from cubefs.visible import safe

SUMMARY = "make a file system in a store"
DESCRIPTION = """\
Make an empty file system in the store at URL. A local directory is created where missing; a file system that
is already there is never overwritten.

The passphrase protects everything: the store sees neither names nor contents. It is asked for twice, or taken
from --passphrase-file or CUBEFS_PASSPHRASE. The recovery key that is printed opens the file system as well:
keep it somewhere else, on paper for example. It is shown this one time only.
"""
RECOVERY_ADVICE = (
    "It opens the file system when the passphrase is lost. Write it down now and keep it away",
    "from this machine: it is not stored anywhere and is never shown again. Who has it can read",
    "everything; without it and without the passphrase nobody can.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    arguments.add_url(parser)
    parser.add_argument(
        "--chunking",
        choices=[mode.value for mode in Chunking],
        default=Chunking.CONTENT.value,
        help="how files become blocks: `content` (default) finds equal parts wherever they are in a file, `fixed`"
        " cuts every 8 MiB (for disk images); it cannot be changed later",
    )
    arguments.add_passphrase_file(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Make the file system."""
    from cubefs.engine.unlock import read_superblock
    from cubefs.mkfs.make import make_file_system
    from cubefs.store import Store, open_store

    def refuse_existing(store: Store) -> None:
        """Say so before asking for a passphrase; mkfs itself checks again."""
        try:
            superblock, _ = read_superblock(store)
        except (NotCubefsError, UnsupportedVersionError):
            return
        raise AlreadyExistsError(
            f"{store.describe()} holds the cubefs file system {superblock.uuid.hex()}; mount it, or choose another"
            " store (mkfs.cubefs never overwrites one)"
        )

    keep_secrets_in_memory()
    store = open_store(namespace.url, create=True)
    refuse_existing(store)
    passphrase = choose_passphrase(file=namespace.passphrase_file, what_for=store.describe())
    made = make_file_system(
        store, passphrase=passphrase, chunking=Chunking(namespace.chunking), now_ns=time.time_ns()
    )
    fields = {
        "url": store.describe(),
        "uuid": made.uuid.hex(),
        "chunking": namespace.chunking,
        "recovery_key": made.recovery_key_text,
    }
    if namespace.json:
        print(json.dumps(fields))
        return 0
    print(f"Made cubefs file system {fields['uuid']} in {safe(fields['url'])}")
    print(f"\nRecovery key:\n\n    {made.recovery_key_text}\n")
    print("\n".join(RECOVERY_ADVICE))
    print(f"\nMount it with: cubefs mount {safe(fields['url'])} DIR")
    return 0
