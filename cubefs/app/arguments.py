"""Parsing of arguments: one parser class whose errors are ours, and the arguments that several commands share.

Must never: do anything but understand arguments, and answer --help and --version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cubefs.errors import UsageError

URL_HELP = "where the objects are, for example local:///srv/backup"
PASSPHRASE_HELP = (
    "the passphrase is the first line of FILE; otherwise CUBEFS_PASSPHRASE, otherwise it is asked for."
    " A recovery key does as well"
)
CACHE_HELP = (
    "the cache directory of this file system; otherwise CUBEFS_CACHE_DIR, otherwise ~/.cache/cubefs/UUID"
    " (XDG_CACHE_HOME is obeyed)"
)

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """argparse, with wrong usage as UsageError: one line, and an exit code that one place decides."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Keep line breaks in texts; no abbreviated options, which would break when we add one."""
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see: {self.prog} --help")


class _ShowVersion(argparse.Action):
    """Looks the version up only when asked: that takes longer than all the rest of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        print(f"cubefs {metadata.version('cubefs-backup')}")
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add --version."""
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the store's URL."""
    parser.add_argument("url", metavar="URL", help=URL_HELP)


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add the mount point of a mounted file system."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="the mount point")


def add_passphrase_file(parser: argparse.ArgumentParser) -> None:
    """Add --passphrase-file."""
    parser.add_argument("--passphrase-file", metavar="FILE", type=Path, help=PASSPHRASE_HELP)


def add_cache_dir(parser: argparse.ArgumentParser) -> None:
    """Add --cache-dir."""
    parser.add_argument("--cache-dir", metavar="DIR", type=Path, help=CACHE_HELP)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run_parser(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Parse, and run the command that the parsers chose with `set_defaults(run=...)`."""
    namespace = parser.parse_args(arguments)
    command: Command = namespace.run
    return command(namespace)
