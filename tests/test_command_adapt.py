"""`delen adapt`: what cannot be is refused in the command's own words, with the code that scripts look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from delen.clients import cli
from delen.clients.adaptation import Adaptation, Adapting
from delen.clients.command_adapt import _lines
from delen.clients.exit_codes import ExitCode
from delen.clients.wire import Adapted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["battery", "--joules", "5"], "--joules needs --for-s or --until"),
        (["battery", "--for-s", "5"], "--for-s and --until need --joules"),
        (["fixed"], "fixed needs --exit NUMBER"),
    ],
)
def test_what_belongs_together_is_said_before_a_daemon_is_asked(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.delen, ["adapt", *arguments])
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr


def test_a_usage_error_is_a_document_too_where_json_was_asked_for() -> None:
    result = CliRunner().invoke(cli.delen, ["adapt", "battery", "--joules", "-5", "--json"])
    assert result.exit_code == ExitCode.USAGE
    error = json.loads(result.stdout)["error"]
    assert "-5.0 is not in the range x>0" in error["message"]
    assert error["exit_code"] == ExitCode.USAGE


def test_a_file_of_conditions_ends_with_the_codes_of_every_command(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    run = ["adapt", "conditions", "--conditions", f"fashion={path}"]
    missing = CliRunner().invoke(cli.delen, run)
    assert (missing.exit_code, missing.stderr) == (ExitCode.NO_INPUT, f"delen: {path}: No such file or directory\n")
    path.write_text('[{"metric": "confidance", "op": "greater", "threshold": 0.9}]')
    wrong = CliRunner().invoke(cli.delen, run)
    assert wrong.exit_code == ExitCode.BAD_DATA
    assert "expected one of response_time, confidence" in wrong.stderr


def test_how_it_adapts_is_said_with_what_was_chosen() -> None:
    told = Adapted(1, b"", Adaptation("fixed", exit=1), Adapting("fixed"))
    assert _lines(told) == ["adapts by: fixed, exit 1"]
    told = Adapted(1, b"", Adaptation("battery"), Adapting("battery", left_j=5200.0, left_s=3600.0, device=True))
    assert _lines(told)[1] == "the device's battery: 5,200 J left, to last 3,600 s"
