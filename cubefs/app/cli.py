"""The command line: what commands there are, and the entry points of the installed programs.

Must never: do the work of a command. It imports next to nothing until `guarded` is in charge: whoever presses
Ctrl-C while modules are loaded gets one line as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cubefs.app.edge import EXIT_CODES_HELP, FSCK_EXIT_CODES_HELP, fsck_exit_code_of, guarded

if TYPE_CHECKING:
    from cubefs.app.arguments import Parser

DESCRIPTION = """\
A deduplicating, encrypting backup file system: copy in with rsync, take a snapshot, restore with cp.
"""
ENVIRONMENT_HELP = """\
environment:
  CUBEFS_PASSPHRASE  the passphrase, for scripts         CUBEFS_CACHE_DIR  same as --cache-dir
  CUBEFS_DEBUG=1     show tracebacks, log more
"""
FSCK_COMMAND = "fsck"


def main() -> None:
    """Run `cubefs`."""
    is_fsck = sys.argv[1:2] == [FSCK_COMMAND]
    _run(_main_parser, code_of=fsck_exit_code_of if is_fsck else None)


def main_mkfs() -> None:
    """Run `mkfs.cubefs`."""

    def parser() -> Parser:
        from cubefs.app import command_mkfs

        return _alone("mkfs.cubefs", command_mkfs.DESCRIPTION, command_mkfs.add_arguments, EXIT_CODES_HELP)

    _run(parser)


def main_fsck() -> None:
    """Run `fsck.cubefs` and `cubefs.fsck`, whose exit codes are those of fsck(8)."""

    def parser() -> Parser:
        from cubefs.app import command_fsck

        add = command_fsck.add_fsck8_arguments
        return _alone("fsck.cubefs", command_fsck.DESCRIPTION, add, FSCK_EXIT_CODES_HELP)

    _run(parser, code_of=fsck_exit_code_of)


def main_mount() -> None:
    """Run `mount.cubefs`, the helper of mount(8)."""

    def parser() -> Parser:
        from cubefs.app import command_mount, options

        add = command_mount.add_fstab_arguments
        epilog = f"{options.HELP}\n{EXIT_CODES_HELP}"
        return _alone("mount.cubefs", command_mount.FSTAB_DESCRIPTION, add, epilog)

    _run(parser)


def _run(make_parser: Callable[[], Parser], *, code_of: Callable[[BaseException], int] | None = None) -> None:
    def command() -> int:
        from cubefs.app.arguments import run_parser

        return run_parser(make_parser(), sys.argv[1:])

    sys.exit(guarded(command, code_of=code_of))


def _alone(program: str, description: str, add: Callable[[Parser], None], epilog: str) -> Parser:
    from cubefs.app.arguments import Parser, add_version

    parser = Parser(prog=program, description=description, epilog=epilog)
    add_version(parser)
    add(parser)
    return parser


def _main_parser() -> Parser:
    from cubefs.app import (
        command_fsck,
        command_limit,
        command_mkfs,
        command_mount,
        command_mounted,
        command_snapshot,
        command_store_test,
        options,
    )
    from cubefs.app.arguments import Parser, add_version

    parser = Parser(prog="cubefs", description=DESCRIPTION, epilog=f"{EXIT_CODES_HELP}\n{ENVIRONMENT_HELP}")
    add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, summary: str, description: str, add: Callable[[Parser], None], epilog: str | None = None
    ) -> None:
        add(commands.add_parser(name, help=summary, description=description, epilog=epilog))

    add("mkfs", command_mkfs.SUMMARY, command_mkfs.DESCRIPTION, command_mkfs.add_arguments)
    add("mount", command_mount.SUMMARY, command_mount.DESCRIPTION, command_mount.add_arguments, options.HELP)
    mounted = command_mounted
    add("umount", mounted.UMOUNT_SUMMARY, mounted.UMOUNT_DESCRIPTION, mounted.add_umount_arguments)
    add("snapshot", command_snapshot.SUMMARY, command_snapshot.DESCRIPTION, command_snapshot.add_arguments)
    add("sync", mounted.SYNC_SUMMARY, mounted.SYNC_DESCRIPTION, mounted.add_sync_arguments)
    add("status", mounted.STATUS_SUMMARY, mounted.STATUS_DESCRIPTION, mounted.add_status_arguments)
    add("limit", command_limit.SUMMARY, command_limit.DESCRIPTION, command_limit.add_arguments)
    store_test = command_store_test
    add("store-test", store_test.SUMMARY, store_test.DESCRIPTION, store_test.add_arguments)
    fsck = command_fsck
    add(FSCK_COMMAND, fsck.SUMMARY, fsck.DESCRIPTION, fsck.add_arguments, FSCK_EXIT_CODES_HELP)
    return parser


if __name__ == "__main__":
    main()
