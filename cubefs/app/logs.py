"""The daemon's log: one file in the cache directory, private, bounded, fit for a terminal.

Must never: hold a passphrase, a key or file contents, or grow without bound.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO, cast

from cubefs.app.edge import is_debugging
from cubefs.errors import CubefsError
from cubefs.model import MIB
from cubefs.visible import one_line

SIZE_MAX_BYTES = 4 * MIB  # then it becomes cubefs.log.1, and the one before that goes
ONLY_IN_FILE = "only_in_file"  # `extra` of a record that the command says on the terminal itself
MODE = 0o600  # messages name files

# at INFO they tell where each setting comes from, at every mount
_TALKATIVE = ("boto3", "botocore", "urllib3", "s3transfer", "swiftclient", "keystoneauth", "keystoneclient")

_log = logging.getLogger(__name__)


class LineFormatter(logging.Formatter):
    """UTC time, level, module, message; control characters of file names in the message are escaped."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        """Fix the line's layout."""
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is appended by the base class, with its line breaks."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


class LogFile(RotatingFileHandler):
    """The log file. With `take_stdio`, whatever libraries print to stdout and stderr lands there too."""

    def __init__(self, path: Path, *, take_stdio: bool) -> None:
        """Open the log, rotating a large one first."""
        self._take_stdio = take_stdio
        super().__init__(path, maxBytes=SIZE_MAX_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(LineFormatter())

    def _open(self) -> TextIO:  # type: ignore[override]
        descriptor = os.open(
            self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, MODE
        )
        if self._take_stdio:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        return cast(TextIO, os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace"))


def log_end(error: BaseException) -> None:
    """Log why the process ends: one line for what we raise on purpose, with a traceback for all else."""
    extra = {ONLY_IN_FILE: True}
    if isinstance(error, CubefsError):
        _log.error("%s", error, extra=extra)
    else:
        _log.critical("ending after an internal error", exc_info=error, extra=extra)


def start(path: Path, *, foreground: bool) -> None:
    """Send all log messages to the file `path`, in the foreground to stderr as well. Raises OSError."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(LogFile(path, take_stdio=not foreground))
    if foreground:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(LineFormatter())
        terminal.addFilter(lambda record: not getattr(record, ONLY_IN_FILE, False))
        root.addHandler(terminal)
    root.setLevel(logging.INFO)
    logging.getLogger("cubefs").setLevel(logging.DEBUG if is_debugging() else logging.INFO)
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.captureWarnings(True)
