"""The scan's own log: the logger `hemoscan`, never the root. Paths and UIDs stand in it, nothing else of a header."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from hemoscan.errors import HemoscanError, OutputError

LOGGER = "hemoscan"
TEXT, JSON = "text", "json"
# For records that the command line itself shows on stderr.
SHOWN = {"shown": True}


class _TextFormatter(logging.Formatter):
    """One line a record, whatever it quotes: a file's name may hold a line's end."""

    def format(self, record: logging.LogRecord) -> str:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in record.getMessage())
        return f"{_time(record)} {record.levelname} {text}"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(content)


FORMATTERS = {TEXT: _TextFormatter, JSON: _JsonFormatter}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _PrivateFileHandler(logging.handlers.WatchedFileHandler):
    """Appends to a file that its owner alone may read; made anew when logrotate has moved it."""

    def _open(self) -> TextIO:  # type: ignore[override]
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if os.name == "posix":
            os.fchmod(handle, 0o600)
        return os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Go on: a log that cannot be written, on a full disk, ends no scan."""


class _StderrHandler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Leave a closed terminal alone."""


@contextlib.contextmanager
def logging_to(file: Path | None, form: str, verbosity: int) -> Iterator[None]:
    """Have the logger write to a file, from INFO on, and to stderr, from WARNING on.

    Parameters
    ----------
    file
        Appended to, 0600; None for none.
    form
        `text` or `json`.
    verbosity
        1: stderr from INFO on; 2: both from DEBUG on; -1: stderr has errors only.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    logger = logging.getLogger(LOGGER)
    stderr = _StderrHandler(sys.stderr)
    stderr.setLevel({-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))
    stderr.addFilter(lambda record: not getattr(record, "shown", False))
    handlers: list[logging.Handler] = [stderr]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_PrivateFileHandler(file))
        except OSError as error:
            raise OutputError(f"log {file}: cannot be written: {error.strerror or error}") from error
        handlers[-1].setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    before, propagate = logger.level, logger.propagate
    logger.setLevel(min(handler.level for handler in handlers))
    logger.propagate = False
    for handler in handlers:
        handler.setFormatter(FORMATTERS[form]())
        logger.addHandler(handler)
    try:
        yield
    except HemoscanError as error:
        logger.error("%s", error, extra=SHOWN)  # noqa: TRY400 - its text says all
        raise
    except Exception as error:
        # Its text may quote a header, so a patient.
        logger.error("unexpected %s", type(error).__name__, extra=SHOWN)  # noqa: TRY400
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # what is left to write, on a full disk
                handler.close()
        logger.setLevel(before)
        logger.propagate = propagate
