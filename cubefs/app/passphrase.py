"""Where a passphrase comes from: a file, the environment, or the terminal.

Must never: take one from the arguments (other users can read those), log one, or leave the terminal without echo.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
from pathlib import Path

from cubefs.app.display import say
from cubefs.app.kernel import forget_variable
from cubefs.errors import UsageError, UserInterruptError
from cubefs.visible import safe

ENVIRONMENT = "CUBEFS_PASSPHRASE"
FILE_MAX_BYTES = 64 * 1024  # nobody's passphrase; a wrong file name must not fill memory


def read_passphrase(*, file: Path | None, what_for: str) -> str:
    """Return the passphrase (or recovery key) of an existing file system.

    Raises UsageError when there is none to be had, UserInterruptError on Ctrl-C at the prompt.
    """
    given = _given(file)
    return given if given is not None else _prompt(f"Passphrase for {safe(what_for)}: ")


def choose_passphrase(*, file: Path | None, what_for: str) -> str:
    """Return the passphrase for a new file system: at the prompt it is asked for twice, until both agree."""
    given = _given(file)
    if given is not None:
        return given
    while True:
        first = _prompt(f"New passphrase for {safe(what_for)}: ")
        if not first:
            _tell("An empty passphrase would protect nothing.")
            continue
        if _prompt("The same again: ") == first:
            return first
        _tell("The two differ. Please try again.")


def _given(file: Path | None) -> str | None:
    in_environment = os.environ.get(ENVIRONMENT)
    forget_variable(ENVIRONMENT)  # neither /proc nor the programs that we start need to have it
    if file is not None:
        return _from_file(file)
    if in_environment is None:
        return None
    if not in_environment:
        raise UsageError(f"{ENVIRONMENT} is set but empty")
    return _checked(os.fsencode(in_environment), where=ENVIRONMENT)


def _from_file(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            line = stream.readline(FILE_MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read the passphrase file {safe(file)}: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        say(f"warning: every user can read the passphrase file {safe(file)}; run: chmod 600 {safe(file)}")
    return _checked(line.removesuffix(b"\n").removesuffix(b"\r"), where=f"the passphrase file {safe(file)}")


def _checked(secret: bytes, *, where: str) -> str:
    if not secret:
        raise UsageError(f"there is no passphrase in the first line of {where}")
    try:
        return secret.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"the passphrase in {where} is not UTF-8 text") from None


def _prompt(text: str) -> str:
    """Ask on the terminal without echo; getpass restores the echo however it ends."""
    if not _has_terminal():
        raise UsageError(
            f"no passphrase, and no terminal to ask for one: use --passphrase-file FILE or set {ENVIRONMENT}"
        )
    try:
        return _checked_typed(getpass.getpass(text))
    except KeyboardInterrupt:
        _tell("")  # what follows starts on a line of its own
        raise UserInterruptError("interrupted: nothing was done") from None
    except EOFError:
        _tell("")
        raise UsageError("no passphrase was given") from None
    except SystemExit:
        _tell("")
        raise


def _checked_typed(typed: str) -> str:
    try:
        typed.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("the passphrase typed is not UTF-8 text; is the terminal set to UTF-8?") from None
    return typed


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _tell(line: str) -> None:
    """Write a line where the prompt was written."""
    with contextlib.suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:  # noqa: PTH123
        terminal.write(f"{line}\n")
