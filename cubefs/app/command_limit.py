"""`cubefs limit`: how fast a mount may talk to its store, looked at and changed while it is mounted.

Must never: keep anything: the next mount begins with what its options say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from cubefs.app import arguments, client, limiting
from cubefs.app.display import aligned
from cubefs.errors import CubefsError

SUMMARY = "show or change how fast a mount may talk to its store"
DESCRIPTION = """\
Show the limits on the traffic between the mount on DIR and its store, after changing those that are given.
They hold until they are changed again or DIR is unmounted; `cubefs mount -o up=...,put=...` sets them from the
start. Without a limit the mount goes as fast as the store lets it, and slows down by itself when the store says
that it is busy (503, 429).
"""
_HELP = {
    "up": "at most so many bytes per second to the store: 10MB/s, 500kB/s, none",
    "down": "at most so many bytes per second from the store",
    "put": "at most so many uploads in a time: 100/5s, 20/s, none",
    "get": "at most so many downloads (and other questions about one object) in a time",
    "list": "at most so many listings in a time",
    "delete": "at most so many deletions in a time",
}
_LABELS = {
    "up": "bytes to the store",
    "down": "bytes from the store",
    "put": "uploads",
    "get": "downloads",
    "list": "listings",
    "delete": "deletions",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    arguments.add_directory(parser)
    for word in limiting.WORDS:
        parser.add_argument(f"--{word}", metavar="RATE", help=_HELP[word])
    parser.add_argument("--none", action="store_true", help="first lift all limits")
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Change what is given, then print all limits."""
    given = {word: value for word in limiting.WORDS if (value := getattr(namespace, word)) is not None}
    limiting.changed(limiting.NO_LIMITS, given)  # a wrong value is found before anything is changed
    if namespace.none:
        given = {**dict.fromkeys(limiting.WORDS, "none"), **given}
    with client.connected(namespace.directory) as connection:
        fields = connection.ask("limit", limits=given)
    try:
        print(json.dumps(fields, indent=2) if namespace.json else "\n".join(_lines(fields)))
    except (KeyError, TypeError) as error:
        raise CubefsError("the mount is served by another version of cubefs; try --json") from error
    return 0


def _lines(fields: Mapping[str, Any]) -> list[str]:
    limits = fields["limits"]
    rows = [(label, "no limit" if limits[word] == "none" else limits[word]) for word, label in _LABELS.items()]
    return aligned([*rows, *((str(label), str(value)) for label, value in fields["adapting"].items())])
