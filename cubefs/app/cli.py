"""The command line: what commands there are, and the entry points of the installed programs.

Must never: do the work of a command; and it loads nothing that takes time, so that --help answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from cubefs.app import command_fsck, command_mkfs, command_mount, command_mounted, command_snapshot
from cubefs.app.arguments import Parser, add_version, run_parser
from cubefs.app.edge import EXIT_CODES_HELP, FSCK_EXIT_CODES_HELP, fsck_exit_code_of, guarded
from cubefs.app.options import HELP as OPTIONS_HELP

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
    code_of = fsck_exit_code_of if is_fsck else None
    sys.exit(guarded(lambda: run_parser(_main_parser(), sys.argv[1:]), code_of=code_of))


def main_mkfs() -> None:
    """Run `mkfs.cubefs`."""
    _run_alone("mkfs.cubefs", command_mkfs.DESCRIPTION, command_mkfs.add_arguments, EXIT_CODES_HELP)


def main_fsck() -> None:
    """Run `fsck.cubefs` and `cubefs.fsck`, whose exit codes are those of fsck(8)."""
    parser = _alone("fsck.cubefs", command_fsck.DESCRIPTION, command_fsck.add_fsck8_arguments, FSCK_EXIT_CODES_HELP)
    sys.exit(guarded(lambda: run_parser(parser, sys.argv[1:]), code_of=fsck_exit_code_of))


def main_mount() -> None:
    """Run `mount.cubefs`, the helper of mount(8)."""
    epilog = f"{OPTIONS_HELP}\n{EXIT_CODES_HELP}"
    _run_alone("mount.cubefs", command_mount.FSTAB_DESCRIPTION, command_mount.add_fstab_arguments, epilog)


def _run_alone(program: str, description: str, add: Callable[[Parser], None], epilog: str) -> None:
    sys.exit(guarded(lambda: run_parser(_alone(program, description, add, epilog), sys.argv[1:])))


def _alone(program: str, description: str, add: Callable[[Parser], None], epilog: str) -> Parser:
    parser = Parser(prog=program, description=description, epilog=epilog)
    add_version(parser)
    add(parser)
    return parser


def _main_parser() -> Parser:
    parser = Parser(prog="cubefs", description=DESCRIPTION, epilog=f"{EXIT_CODES_HELP}\n{ENVIRONMENT_HELP}")
    add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add = partial(_add_command, commands.add_parser)
    add("mkfs", command_mkfs.SUMMARY, command_mkfs.DESCRIPTION, command_mkfs.add_arguments)
    add("mount", command_mount.SUMMARY, command_mount.DESCRIPTION, command_mount.add_arguments, OPTIONS_HELP)
    umount = (command_mounted.UMOUNT_SUMMARY, command_mounted.UMOUNT_DESCRIPTION)
    add("umount", *umount, command_mounted.add_umount_arguments)
    add("snapshot", command_snapshot.SUMMARY, command_snapshot.DESCRIPTION, command_snapshot.add_arguments)
    add("sync", command_mounted.SYNC_SUMMARY, command_mounted.SYNC_DESCRIPTION, command_mounted.add_sync_arguments)
    status = (command_mounted.STATUS_SUMMARY, command_mounted.STATUS_DESCRIPTION)
    add("status", *status, command_mounted.add_status_arguments)
    fsck = (command_fsck.SUMMARY, command_fsck.DESCRIPTION)
    add(FSCK_COMMAND, *fsck, command_fsck.add_arguments, FSCK_EXIT_CODES_HELP)
    return parser


def _add_command(
    add_parser: Callable[..., Parser],
    name: str,
    summary: str,
    description: str,
    add: Callable[[Parser], None],
    epilog: str | None = None,
) -> None:
    add(add_parser(name, help=summary, description=description, epilog=epilog))


if __name__ == "__main__":
    main()
