"""Exit codes: every failure delen expects has its own, and one of its own making is told apart."""

from __future__ import annotations

import errno
import importlib
from pathlib import Path

import pytest

from delen.clients.exit_codes import MEANING, CommandFailed, ExitCode, code_of


def test_every_code_has_a_meaning() -> None:
    assert set(MEANING) == set(ExitCode)


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("clients.errors.Unreachable", ExitCode.UNAVAILABLE),
        ("clients.wire.WireError", ExitCode.BAD_DATA),
        ("exits.bundle.BundleError", ExitCode.BAD_DATA),
        ("profiles.schema.ProfileError", ExitCode.BAD_DATA),
        ("daemon.config.ConfigError", ExitCode.BAD_CONFIG),
        ("daemon.runtime_lock.AlreadyRunning", ExitCode.ALREADY_RUNNING),
        ("daemon.sockets.EndpointError", ExitCode.PERMISSION),
        ("daemon.supervisor.WorkerFailed", ExitCode.UNAVAILABLE),
        ("clients.private_daemon.DaemonFailed", ExitCode.UNAVAILABLE),
    ],
)
def test_a_failure_is_known_by_its_class_wherever_it_lives(place: str, code: ExitCode) -> None:
    module, name = place.rsplit(".", 1)
    kind = getattr(importlib.import_module(f"delen.{module}"), name)
    assert code_of(kind.__new__(kind)) is code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), ExitCode.NO_INPUT),
        (OSError(errno.ENOSPC, "No space left on device", "x"), ExitCode.CANNOT_CREATE),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), ExitCode.USAGE),
    ],
)
def test_what_the_system_says_of_a_file_is_no_fault_of_delens_own(error: Exception, code: ExitCode | None) -> None:
    assert code_of(error) is code


def test_an_error_of_the_same_name_from_elsewhere_is_not_ours() -> None:
    stranger = type("ConfigError", (Exception,), {"__module__": "elsewhere"})
    assert code_of(stranger()) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandFailed("no", ExitCode.REFUSED), ExitCode.REFUSED),
        (FileNotFoundError(), ExitCode.NO_INPUT),
        (IsADirectoryError(), ExitCode.NO_INPUT),
        (PermissionError(), ExitCode.PERMISSION),
        (FileExistsError(), ExitCode.CANNOT_CREATE),
        (ModuleNotFoundError(), ExitCode.UNAVAILABLE),
        (ZeroDivisionError(), None),
        (KeyError(Path()), None),
    ],
)
def test_what_the_system_says_is_told_apart_from_faults_of_our_own(error: Exception, code: ExitCode | None) -> None:
    assert code_of(error) is code
