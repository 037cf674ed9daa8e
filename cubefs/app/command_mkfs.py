"""`cubefs mkfs`, `mkfs.cubefs`: make a file system and show its recovery key, once.

Must never: print the recovery key anywhere but to stdout, or keep it.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from cubefs.app import arguments
from cubefs.app.display import say
from cubefs.app.kernel import keep_secrets_in_memory
from cubefs.app.passphrase import choose_passphrase
from cubefs.errors import AlreadyExistsError, NotCubefsError, UnsupportedVersionError
from cubefs.model import Chunking
from cubefs.visible import safe

if TYPE_CHECKING:
    from cubefs.store import Store

SUMMARY = "make a file system in a store"
DESCRIPTION = """\
Make an empty file system in the store at URL. A local directory is created where missing; a file system that
is already there is never overwritten. Before anything is written, the store is examined for about a second (the
short form of `cubefs store-test`): one that breaks a promise is refused.

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
    from cubefs.store import open_store
    from cubefs.store.retry import Retrying

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
    driver = open_store(namespace.url, create=True)
    store = Retrying(driver)
    refuse_existing(store)
    _examine(driver)
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


def _examine(store: Store) -> None:
    """Refuse a store that lies; tell what is worth knowing about one that does not, nothing when all is well."""
    from cubefs.store.examine import Verdict, require_suitable

    report = require_suitable(store)
    url = safe(report.url)
    for result in report.results:
        if result.verdict is Verdict.WARNING:
            say(f"warning: {url}: {safe(result.sentence)}")
    if report.settle_s:
        say(f"warning: {url} shows late what was stored: mount with -o settle={report.settle_s}s")
    if report.leftover is not None:
        left = report.leftover
        say(f"warning: {left.count} small test objects stay in {safe(left.where)}: {safe(left.why)}")
