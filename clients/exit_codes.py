"""What the command's exit code says, in one place: the codes, their meaning, and which failure gets which.

Role: `code_of` maps an exception to its code; `delen --help` prints `MEANING`. A code never changes its meaning once
released; 64 to 78 are those of sysexits.h. Does not: print.
"""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """How a `delen` command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    BAD_DATA = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    ALREADY_RUNNING = 75
    PERMISSION = 77
    BAD_CONFIG = 78
    INTERRUPTED = 130


MEANING = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "accepted, but it failed: deadline passed and dropped, engine failed, a check of `doctor` failed",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.REFUSED: "the daemon refused the request: unknown network, bad input, bound not feasible, queue full",
    ExitCode.BAD_DATA: "a bundle, profile, picture or array cannot be used",
    ExitCode.NO_INPUT: "a file, bundle, scenario or sample that was named is not there or cannot be read",
    ExitCode.UNAVAILABLE: "no daemon answers, or an engine or package is not installed",
    ExitCode.INTERNAL: "a fault of delen's own: please report it",
    ExitCode.CANNOT_CREATE: "a file, plot or socket cannot be made",
    ExitCode.ALREADY_RUNNING: "a daemon already serves these sockets",
    ExitCode.PERMISSION: "not allowed",
    ExitCode.BAD_CONFIG: "the configuration cannot be used",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}

# By the name of the class, so that naming a failure loads no engine, socket or profile code.
_BY_NAME = {
    "Unreachable": ExitCode.UNAVAILABLE,
    "Refused": ExitCode.REFUSED,
    "Failed": ExitCode.FAILED,
    "DelenError": ExitCode.FAILED,
    "EngineFault": ExitCode.UNAVAILABLE,
    "BadFile": ExitCode.BAD_DATA,
    "BundleError": ExitCode.BAD_DATA,
    "SigningKeyError": ExitCode.BAD_DATA,
    "ScenarioError": ExitCode.BAD_DATA,
    "ProfileError": ExitCode.BAD_DATA,
    "WireError": ExitCode.BAD_DATA,
    "JournalError": ExitCode.BAD_DATA,
    "WeightsError": ExitCode.BAD_DATA,
    "DataError": ExitCode.BAD_DATA,
    "CheckpointError": ExitCode.BAD_DATA,
    "TrainingError": ExitCode.FAILED,
    "PlanError": ExitCode.USAGE,
    "AttachError": ExitCode.BAD_DATA,
    "WorkspaceError": ExitCode.BAD_DATA,
    "ZooError": ExitCode.BAD_DATA,
    "ExportError": ExitCode.FAILED,
    "GraphError": ExitCode.BAD_DATA,
    "PlotError": ExitCode.CANNOT_CREATE,
    "PlaceError": ExitCode.CANNOT_CREATE,
    "ConfigError": ExitCode.BAD_CONFIG,
    "BundleMissing": ExitCode.NO_INPUT,
    "ScenarioMissing": ExitCode.NO_INPUT,
    "ConfigMissing": ExitCode.NO_INPUT,
    "AlreadyRunning": ExitCode.ALREADY_RUNNING,
    "EndpointError": ExitCode.PERMISSION,
    "StateBusy": ExitCode.ALREADY_RUNNING,
    "StateError": ExitCode.PERMISSION,
    "WorkerFailed": ExitCode.UNAVAILABLE,
    "DaemonFailed": ExitCode.UNAVAILABLE,
}
# What is said where something was to be written.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class CommandFailed(Exception):
    """A command ends here, with this message, this hint and this code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def code_of(error: BaseException) -> ExitCode | None:
    """The exit code of a failure delen expects; None for one it does not, which is a fault of its own."""
    if isinstance(error, CommandFailed):
        return error.code
    for kind in type(error).__mro__:
        if kind.__module__.split(".")[0] == "delen" and kind.__name__ in _BY_NAME:
            return _BY_NAME[kind.__name__]
    if isinstance(error, PermissionError):
        return ExitCode.PERMISSION
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return ExitCode.NO_INPUT
    if isinstance(error, FileExistsError):
        return ExitCode.CANNOT_CREATE
    if isinstance(error, OSError) and error.filename is not None:
        # A name too long, a disk that is full or read-only: the world's fault, and it says where.
        return ExitCode.CANNOT_CREATE if error.errno in _NO_ROOM else ExitCode.NO_INPUT
    if isinstance(error, UnicodeEncodeError):
        # An argument or a variable of bytes that are no UTF-8, as Python hands them on.
        return ExitCode.USAGE
    if isinstance(error, ImportError):
        return ExitCode.UNAVAILABLE
    return None
