"""The one place where errors become a line on stderr and an exit code.

Must never: print a traceback unless CUBEFS_DEBUG=1 asks for it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cubefs.app.display import say
from cubefs.errors import CubefsError, UsageError, UserInterruptError
from cubefs.visible import one_line

EXIT_FAILURE = 1
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM

# fsck(8): what scripts and systemd-fsck expect of a program with that name
FSCK_CLEAN = 0
FSCK_ERRORS_LEFT = 4
FSCK_OPERATIONAL_ERROR = 8
FSCK_USAGE_ERROR = 16
FSCK_CANCELLED = 32

EXIT_CODES_HELP = """\
exit codes:
  0  done                      6  exists already
  1  failed                    7  in use, or not usable like this: mount point, cache directory, other writer
  2  wrong usage               8  the store failed: unreachable, full, refusing, unsuitable
  3  wrong passphrase          9  the cache disk failed or is full
  4  no file system there     10  damaged or forged data
  5  newer format           130  interrupted
"""

FSCK_EXIT_CODES_HELP = """\
exit codes, as of fsck(8):
  0  clean    4  errors found    8  could not check    16  wrong usage    32  interrupted
"""


def is_debugging() -> bool:
    """Return whether CUBEFS_DEBUG asks for tracebacks."""
    return os.environ.get("CUBEFS_DEBUG", "0") not in ("", "0")


def guarded(command: Callable[[], int], *, code_of: Callable[[BaseException], int] | None = None) -> int:
    """Run a command and return its exit code; whatever goes wrong becomes one line on stderr.

    `code_of` chooses another exit code for an error than the error's own (fsck has codes of its own).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a narrow locale must not turn into a failure
    exit_code = code_of or exit_code_of
    _end_properly_on_signals()
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader has what it wanted (`cubefs snapshot list | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except BaseException as group:
        error = root_cause(group)
        if isinstance(error, SystemExit):
            raise error from None
        if is_debugging():
            traceback.print_exception(error)
        say(line_for(error))
        return exit_code(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the verdict is out; the exit code must not contradict it


def root_cause(error: BaseException) -> BaseException:
    """Return the one error to tell the user about: trio wraps errors in groups, and one may bring others along."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [root_cause(leaf) for leaf in error.exceptions]
    for kind in (KeyboardInterrupt, CubefsError, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that docs/COMMANDS.md promises for an error."""
    if isinstance(error, CubefsError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return UserInterruptError.exit_code
    return EXIT_FAILURE


def fsck_exit_code_of(error: BaseException) -> int:
    """Return the fsck(8) code for an error that kept fsck from giving its verdict."""
    if isinstance(error, UsageError):
        return FSCK_USAGE_ERROR
    if isinstance(error, KeyboardInterrupt | UserInterruptError):
        return FSCK_CANCELLED
    return FSCK_OPERATIONAL_ERROR


def line_for(error: BaseException) -> str:
    """Return the line that tells what went wrong, without `cubefs: ` and without control characters."""
    if isinstance(error, CubefsError):
        return one_line(str(error))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        return "terminated by a signal"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return one_line(f"{error.strerror}: {os.fsdecode(error.filename)}")
    return one_line(
        f"internal error: {type(error).__name__}: {str(error)[:200]} ({_place_of(error)});"
        " please report it with the traceback that CUBEFS_DEBUG=1 shows"
    )


def _place_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "no traceback"


def _end_properly_on_signals() -> None:
    """Let SIGTERM and a hangup unwind like an exit: a prompt in progress gives the terminal its echo back."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    signal.signal(signal.SIGQUIT, signal.default_int_handler)  # Ctrl-\ like Ctrl-C: a core would hold secrets
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
        signal.signal(signal.SIGHUP, unwind)
