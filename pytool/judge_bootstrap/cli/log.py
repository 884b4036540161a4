"""The log: to stderr at LOG_LEVEL, and in full to LOG_FILE (mode 0600). Secrets never get that far."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from judge_bootstrap.core.errors import UsageProblem

if TYPE_CHECKING:
    import logging

NAME = "judge_bootstrap"
# What a person already sees as progress: it goes to LOG_FILE alone.
FILE_ONLY = "judge_bootstrap.events"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def set_up(verbose: int = 0) -> logging.Logger:
    """Configure and return the program's logger: LOG_LEVEL wins over -v, and LOG_FILE gets at least INFO.

    Raises UsageProblem for an unknown LOG_LEVEL or a LOG_FILE that cannot be written.
    """
    import logging

    from judge_bootstrap.core.redact import redactor

    class CleanFormatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return redactor().clean(super().format(record))

    wanted = os.environ.get("LOG_LEVEL", "").upper() or ("WARNING", "INFO", "DEBUG")[min(verbose, 2)]
    if wanted not in LEVELS:
        raise UsageProblem(f"LOG_LEVEL is {os.environ['LOG_LEVEL']!r}, wanted one of {', '.join(LEVELS)}",
                           hint="export LOG_LEVEL=INFO")
    logger = logging.getLogger(NAME)
    close(logger)
    logger.propagate = False
    to_stderr = logging.StreamHandler()
    to_stderr.setLevel(wanted)
    to_stderr.addFilter(lambda record: record.name != FILE_ONLY)
    to_stderr.setFormatter(CleanFormatter("%(levelname)s %(message)s"))
    logger.addHandler(to_stderr)
    logger.setLevel(wanted)

    path = os.environ.get("LOG_FILE")
    if path:
        try:
            # Made by hand so that the file is 0600 from its first byte.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            # As root, LOG_FILE=/dev/null would otherwise take the machine's /dev/null from everybody else.
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, 0o600)
            os.close(descriptor)
            to_file = logging.FileHandler(path, encoding="utf-8")
        except OSError as problem:
            raise UsageProblem(f"LOG_FILE {path!r} cannot be written: {problem.strerror}",
                               hint="name a file in a folder that exists and is yours, or unset LOG_FILE") from problem
        to_file.setFormatter(CleanFormatter("%(asctime)s %(levelname)s %(message)s"))
        level = min(logging.getLevelNamesMapping()[wanted], logging.INFO)
        to_file.setLevel(level)
        logger.addHandler(to_file)
        logger.setLevel(level)
    return logger


def close(logger: logging.Logger) -> None:
    """Take the handlers off, closing the log file (a second set_up in one process would write each line twice)."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
