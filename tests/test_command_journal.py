"""`delen serve --journal` and `delen simulate --journal`: simulated days on the command line, and a real daemon's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from delen.clients import cli, tables
from delen.clients.exit_codes import ExitCode
from delen.daemon.journal import read_journal
from delen.daemon.journal_records import Chosen
from delen.daemon.replay import replay
from delen.tests.daemon_fixture import SETTINGS, Plain, serving, worker_of
from delen.tests.recorded_day import recorded_day
from delen.tests.sample_profile import sample_profile


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "j"
    recorded_day(path, 2)
    return path


def run(*arguments: str) -> Result:
    tables.out.cache_clear()
    tables.err.cache_clear()
    return CliRunner().invoke(cli.delen, ["simulate", *arguments], prog_name="delen")


def document(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_says_that_it_is_reproduced_and_what_each_tenant_got(journal: Path) -> None:
    result = run("--journal", str(journal))
    assert result.exit_code == 0, result.output
    assert "reproduced exactly: " in result.stderr
    assert "violations %" in result.stdout
    said = document("--journal", str(journal))
    assert (said["reproduced"], said["difference"], said["ends"]) == (True, None, 40)
    assert sum(tenant["requests"] for tenant in said["tenants"].values()) == 40
    assert list(said["figures"]) == ["recorded"]


def test_each_change_stands_by_itself_beside_a_simulation_of_what_was(journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "fast.json"
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(sample_profile(segments_us=(1, 2, 4)), network="net")))
    said = document("--journal", str(journal), "--policy", "fixed-exit", "--profile", str(file))
    assert list(said["figures"]) == ["recorded", "simulated", "fixed-exit", "profile fast"]
    assert said["figures"]["profile fast"]["energy_mj"] < said["figures"]["simulated"]["energy_mj"]
    said = document("--journal", str(journal), "--set", "spare_share=0.9")
    assert list(said["figures"]) == ["recorded", "simulated", "spare_share=0.9"]


def test_a_cut_journal_is_played_as_far_as_it_goes_and_that_is_said(journal: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(journal.read_bytes()[:-200])
    result = run("--journal", str(tmp_path / "cut"))
    assert result.exit_code == 0, result.output
    assert "warning: the journal is still being written, or cut off" in result.stderr


def test_a_journal_that_is_not_reproduced_fails_and_says_where(journal: Path, tmp_path: Path) -> None:
    records = [
        msgspec.structs.replace(record, run=None) if isinstance(record, Chosen) else record
        for record in read_journal(journal)
    ]
    bodies = [msgspec.msgpack.encode(record) for record in records]
    (tmp_path / "other").write_bytes(b"".join(len(body).to_bytes(4, "little") + body for body in bodies))
    result = run("--journal", str(tmp_path / "other"))
    assert result.exit_code == ExitCode.FAILED
    assert "is not reproduced: event " in result.stderr
    assert "recorded no run; now run 1 of " in result.stderr
    result = run("--journal", str(tmp_path / "other"), "--json")
    assert result.exit_code == ExitCode.FAILED
    assert json.loads(result.stdout)["reproduced"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--journal", "/no/such"], ExitCode.NO_INPUT, "does not exist"),
        (["--journal", __file__], ExitCode.BAD_DATA, "is no journal of delen"),
        (["--journal", "JOURNAL", "--policy", "best-ever"], ExitCode.USAGE, "expected one of"),
        (["--journal", "JOURNAL", "--set", "spice=3"], ExitCode.BAD_DATA, "spice"),
        (["--journal", "JOURNAL", "--case", "x", "--seeds", "3"], ExitCode.USAGE, "--case, --seeds: for scenarios"),
        (["--journal", "JOURNAL", "e2"], ExitCode.USAGE, "for scenarios"),
        (["--profile", __file__], ExitCode.USAGE, "name a scenario"),
    ],
)
def test_what_cannot_be_done_is_said(journal: Path, arguments: list[str], code: ExitCode, said: str) -> None:
    result = run(*[str(journal) if argument == "JOURNAL" else argument for argument in arguments])
    assert result.exit_code == code, result.output
    assert said in result.stderr


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_daemons_decisions_are_reproduced_exactly(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    file = tmp_path / "journal"
    with (
        serving(tmp_path, settings=f'journal = "{file}"\nahead_us = 200\n{SETTINGS}') as daemon,
        Plain(daemon, "a") as first,
        Plain(daemon, "b") as second,
    ):
        for _ in range(3):
            ids = [first.infer(latency_ms=200.0) for _ in range(8)] + [first.infer() for _ in range(4)]
            others = [second.infer(accuracy=0.93) for _ in range(8)] + [second.infer(latency_ms=0.01)]
            ends = [*first.ends(ids).values(), *second.ends(others).values()]
            assert len(ends) == 21
        worker_of(daemon).kill()
        first.until_worker_is("ready", 1)
        first.answers([first.infer(), first.infer(latency_ms=500.0)])
    replayed = replay(file)
    assert replayed.difference is None
    assert len(replayed.outcomes) == 3 * 21 + 2
    assert replayed.ended == "the daemon ended"
    assert {name: account.accepted for name, account in replayed.server.ledger.accounts.items()} == {"a": 38, "b": 24}
