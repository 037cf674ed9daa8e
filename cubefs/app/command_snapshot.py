"""`cubefs snapshot create|list|rm`.

Must never: say that a snapshot is stored before it is.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
from typing import Any

from cubefs.app import arguments, client
from cubefs.app.command_mounted import shown_progress
from cubefs.app.display import table
from cubefs.visible import safe

SUMMARY = "create, list and remove snapshots"
DESCRIPTION = """\
Snapshots are read-only directories: DIR/snapshots/NAME shows everything as it was. Taking one costs milliseconds
however much there is, and keeps only what changes afterwards. `mkdir DIR/snapshots/NAME` takes one, too.
"""
CREATE_DESCRIPTION = """\
Take a snapshot of the file system mounted on DIR, named NAME or after the time (UTC), and return when it is in the
store. Prints its name.
"""
LIST_DESCRIPTION = """\
List the snapshots of the file system mounted on DIR, oldest first.
"""
REMOVE_DESCRIPTION = """\
Remove a snapshot. What only it kept is no longer there at once; the store's space is freed later, by reclaiming.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the three commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    create = commands.add_parser("create", help="take a snapshot", description=CREATE_DESCRIPTION)
    arguments.add_directory(create)
    create.add_argument("name", metavar="NAME", nargs="?", help="one directory name; by default the time, UTC")
    arguments.add_json(create)
    create.set_defaults(run=run_create)
    listing = commands.add_parser("list", help="list snapshots", description=LIST_DESCRIPTION)
    arguments.add_directory(listing)
    arguments.add_json(listing)
    listing.set_defaults(run=run_list)
    remove = commands.add_parser("rm", help="remove a snapshot", description=REMOVE_DESCRIPTION)
    arguments.add_directory(remove)
    remove.add_argument("name", metavar="NAME", help="as `cubefs snapshot list` shows it")
    remove.set_defaults(run=run_remove)


def run_create(namespace: argparse.Namespace) -> int:
    """Take a snapshot and wait until it is stored."""
    interrupted = {
        "": "interrupted: perhaps the snapshot was taken; see: cubefs snapshot list",
        "taken": "interrupted: the snapshot is taken, storing it goes on in the background",
        "storing": "interrupted: the snapshot is taken, storing it goes on in the background",
    }
    with shown_progress(interrupted) as view, client.connected(namespace.directory) as connection:
        snapshot = connection.ask("snapshot-create", on_progress=view, name=namespace.name)
    print(json.dumps(snapshot) if namespace.json else _shown_name(snapshot))
    return 0


def run_list(namespace: argparse.Namespace) -> int:
    """Print all snapshots."""
    with client.connected(namespace.directory) as connection:
        snapshots = connection.ask("snapshot-list")["snapshots"]
    if namespace.json:
        print(json.dumps(snapshots, indent=2))
    elif snapshots:
        rows = [(_shown_name(snapshot), str(snapshot["created"])) for snapshot in snapshots]
        print("\n".join(table(("name", "created"), rows)))
    return 0


def run_remove(namespace: argparse.Namespace) -> int:
    """Remove a snapshot."""
    with client.connected(namespace.directory) as connection:
        connection.ask("snapshot-remove", name=os.fsdecode(namespace.name))
    return 0


def _shown_name(snapshot: dict[str, Any]) -> str:
    exact = base64.b64decode(snapshot["name_b64"]) if "name_b64" in snapshot else str(snapshot["name"])
    return safe(exact)
