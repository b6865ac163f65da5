"""The command line as a script sees it: exit codes, JSON on stdout, one line on stderr for each failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from delen.clients import cli, exit_codes, tables, wire
from delen.clients.errors import BoundsInfeasible, DeadlineExceeded, Unreachable
from delen.clients.exit_codes import ExitCode
from delen.tests.fake_client import NETWORK, FakeClient


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """Commands reach a fake daemon instead of a socket."""
    FakeClient.bounds_seen, FakeClient.failure = [], None
    monkeypatch.setattr("delen.clients.client.Client", FakeClient)
    return FakeClient


@pytest.fixture(autouse=True)
def _fresh_consoles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every run prints to its own streams, and finds its own empty directories."""
    tables.out.cache_clear()
    tables.err.cache_clear()
    for name in ("DELEN_RUNTIME_DIR", "DELEN_STATE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def run(*arguments: str) -> Result:
    tables.out.cache_clear()
    tables.err.cache_clear()
    return CliRunner().invoke(cli.delen, list(arguments), prog_name="delen")


def document(*arguments: str) -> Any:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def sample(folder: Path, shape: tuple[int, ...] = NETWORK.shape) -> str:
    path = folder / "x.npy"
    np.save(path, np.zeros(shape, np.float32))
    return str(path)


def test_help_lists_every_command_and_exit_code() -> None:
    text = run("--help").stdout
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text
    for code in ExitCode:
        assert f"\n  {int(code)} " in text


@pytest.mark.slow
def test_help_loads_no_numbers_sockets_or_engines() -> None:
    code = (
        "import sys; from delen.clients.cli import delen; delen(['--help'], standalone_mode=False);"
        "print([m for m in ('numpy', 'zmq', 'torch', 'onnxruntime', 'rich', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - {"demo", "bench", "keys", "network"}))
def test_every_command_has_help_and_json(name: str) -> None:
    text = run(name, "--help").stdout
    assert "--json" in text
    assert text.count("Usage:") == 1


def test_every_exit_code_is_explained() -> None:
    assert set(exit_codes.MEANING) == set(ExitCode)


def test_unknown_command_is_a_usage_error() -> None:
    result = run("surve")
    assert result.exit_code == ExitCode.USAGE
    assert "surve" in result.stderr


def test_unreachable_daemon_is_69_with_a_hint() -> None:
    result = run("networks")
    assert result.exit_code == ExitCode.UNAVAILABLE
    first, hint = result.stderr.splitlines()
    assert first.startswith("delen: ")
    assert "default" in first
    assert "delen serve" in hint
    assert result.stdout == ""


@pytest.mark.usefixtures("daemon")
def test_networks_as_json_and_as_a_table() -> None:
    (network,) = document("networks", "--json")["networks"]
    assert network["name"] == "digits"
    assert [entry["latency_p99_us"] for entry in network["exits"]] == [250, 2400]
    lines = run("networks").stdout.splitlines()
    assert lines[0].startswith("digits 1  float32 1x8x8")
    assert "84.0 %" in lines[2]
    assert [line.split()[-1] for line in lines[1:4]] == ["GMAC", "0.025", "0.18"]
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.usefixtures("daemon")
def test_ps_shows_shares_and_exits_and_dashes_for_the_unknown() -> None:
    assert [tenant["tenant"] for tenant in document("ps", "--json")["tenants"]] == ["a", "b"]
    title, _, first, second = run("ps").stdout.splitlines()
    assert "up 1 min 01 s" in title
    assert "80.0 %" in first
    assert "40 60 %" in first
    assert second.split()[5:] == ["-", "-", "-", "-", "unknown", "-", "-", "-"]


def test_infer_passes_bounds_on_and_prints_what_was_delivered(daemon: type[FakeClient], tmp_path: Path) -> None:
    given = ["--latency-ms", "20", "--objective", "energy"]
    (answer,) = document("infer", "digits", sample(tmp_path), *given, "--json")["answers"]
    assert daemon.bounds_seen == [{"latency_ms": 20.0, "objective": "energy"}]
    assert (answer["label_name"], answer["exit"], answer["met"]) == ("7", 1, True)
    assert (answer["energy_mj"], answer["energy_source"]) == (15.0, "modelled")
    assert answer["round_trip_us"] == 3000


def test_infer_asks_once_per_input_of_a_stack(daemon: type[FakeClient], tmp_path: Path) -> None:
    answers = document("infer", "digits", sample(tmp_path, (3, *NETWORK.shape)), "--json")["answers"]
    assert [answer["input"] for answer in answers] == ["x.npy[0]", "x.npy[1]", "x.npy[2]"]
    assert len(daemon.bounds_seen) == 3


@pytest.mark.usefixtures("daemon")
def test_infer_knows_the_truth_of_samples() -> None:
    (answer,) = document("infer", "digits", "--sample", "0", "--json")["answers"]
    assert answer["truth"] in NETWORK.classes
    result = run("infer", "digits", "--sample", "99999")
    assert result.exit_code == ExitCode.NO_INPUT
    assert "99999" in result.stderr


@pytest.mark.usefixtures("daemon")
def test_infer_refuses_a_network_that_is_not_there(tmp_path: Path) -> None:
    result = run("infer", "digitz", sample(tmp_path))
    assert result.exit_code == ExitCode.REFUSED
    assert "'digitz'" in result.stderr
    assert "digits" in result.stderr.replace("digitz", "")


@pytest.mark.usefixtures("daemon")
def test_infer_without_input_is_a_usage_error() -> None:
    assert run("infer", "digits").exit_code == ExitCode.USAGE


@pytest.mark.usefixtures("daemon")
def test_infer_names_a_missing_file(tmp_path: Path) -> None:
    result = run("infer", "digits", str(tmp_path / "none.npy"))
    assert result.exit_code == ExitCode.NO_INPUT
    assert "none.npy" in result.stderr


def test_refusal_shows_the_counter_offer(daemon: type[FakeClient], tmp_path: Path) -> None:
    daemon.failure = BoundsInfeasible("0.1 ms is not enough", offer=wire.Offer(latency_ms=0.5))
    result = run("infer", "digits", sample(tmp_path), "--latency-ms", "0.1")
    assert result.exit_code == ExitCode.REFUSED
    assert result.stderr.splitlines() == [
        "delen: 0.1 ms is not enough",
        "  hint: feasible now, each alone: latency_ms 0.5",
    ]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: DeadlineExceeded("dropped", code="deadline"), ExitCode.FAILED),
        (lambda: Unreachable("gone", endpoint="ipc://x"), ExitCode.UNAVAILABLE),
        (lambda: PermissionError(13, "Permission denied", "/x"), ExitCode.PERMISSION),
        (lambda: ModuleNotFoundError("no", name="onnxruntime"), ExitCode.UNAVAILABLE),
        (lambda: ZeroDivisionError("oh"), ExitCode.INTERNAL),
        (KeyboardInterrupt, ExitCode.INTERRUPTED),
    ],
)
def test_each_failure_has_its_code_and_no_traceback(
    daemon: type[FakeClient], tmp_path: Path, make: Callable[[], Exception], code: ExitCode
) -> None:
    daemon.failure = make()
    result = run("infer", "digits", sample(tmp_path))
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) <= 2


def test_missing_package_names_the_extra(daemon: type[FakeClient], tmp_path: Path) -> None:
    daemon.failure = ModuleNotFoundError("no", name="onnxruntime")
    assert "pip install 'delen[onnx]'" in run("infer", "digits", sample(tmp_path)).stderr


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_bounds_that_cannot_be_are_usage_errors_before_anything_is_sent(value: str) -> None:
    result = run("infer", "digits", "--sample", "0", "--latency-ms", value)
    assert result.exit_code == ExitCode.USAGE
    assert "latency" in result.stderr.replace("_", "-")


def test_serve_check_prints_the_configuration_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELEN_THREADS", "2")
    flags = ["--dev", "--tenant", "a", "--tenant", "b", "--network", "digits", "--runtime-dir", str(tmp_path)]
    settings = document("serve", *flags, "--check", "--json")
    assert [tenant["name"] for tenant in settings["tenants"]] == ["a", "b"]
    assert settings["networks"] == ["digits"]
    assert settings["threads"] == 2
    assert settings["runtime_dir"] == str(tmp_path)


def test_bad_configuration_is_78_and_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "delen.toml"
    path.write_text("thread = 2\n")
    result = run("serve", "--config", str(path), "--check")
    assert result.exit_code == ExitCode.BAD_CONFIG
    assert str(path) in result.stderr
    assert "thread" in result.stderr


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    "arguments",
    [
        ("infer", "digits", "PATH"),
        ("infer", "digits", "--sample", "0", "--conditions", "PATH"),
        ("load", "digits", "--inputs", "PATH"),
        ("serve", "--config", "PATH"),
        ("serve", "--dev", "--network", "PATH", "--check"),
        ("profile", "PATH"),
        ("train", "digits", "--from-weights", "PATH"),
        ("train", "fashion", "--data", "PATH"),
        ("simulate", "PATH.toml"),
        ("simulate", "--journal", "PATH"),
        ("simulate", "e2", "--data", "PATH"),
        ("bench", "scenarios", "--data", "PATH"),
    ],
    ids=" ".join,
)
def test_what_is_named_and_not_there_is_66_in_every_command(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(*[argument.replace("PATH", str(tmp_path / "missing")) for argument in arguments])
    assert result.exit_code == ExitCode.NO_INPUT, result.stderr
    assert str(tmp_path / "missing") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_profile_of_no_network_names_those_there_are() -> None:
    result = run("profile", "nothing-like-it")
    assert result.exit_code == ExitCode.NO_INPUT
    assert "nothing-like-it" in result.stderr
    assert "digits" in result.stderr


def test_a_variable_that_is_wrong_or_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELEN_CONFIG", str(tmp_path / "missing"))
    result = run("serve", "--check")
    assert (result.exit_code, result.stderr.split(":")[1]) == (ExitCode.NO_INPUT, " DELEN_CONFIG")
    monkeypatch.delenv("DELEN_CONFIG")
    monkeypatch.setenv("DELEN_POLCY", "latency-first")
    result = run("serve", "--dev", "--check")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == ["note: DELEN_POLCY is not read; variables that are: DELEN_POLICY"]


def test_a_fixed_exit_that_no_network_has_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "delen.toml"
    path.write_text('policy = "fixed-exit"\nnetworks = ["digits"]\n[policy_options]\nexit = 9\n')
    result = run("serve", "--dev", "--config", str(path), "--tenant", "a", "--check")
    assert result.exit_code == ExitCode.BAD_CONFIG
    assert "exit is 9; expected 0 to 2" in result.stderr


def test_a_check_says_what_a_daemon_would_start_with_and_only_complain_of(tmp_path: Path) -> None:
    path = tmp_path / "delen.toml"
    tenant = '[[tenants]]\nname = "a"\nenergy_until = 2020-01-01T00:00:00Z\nadaptation = { energy_j = 5.0 }\n'
    battery = '[battery]\nsource = "command: echo"\nuntil = 2020-01-02T00:00:00Z\n'
    path.write_text(f'meter = "command: no-such-meter-here"\n{tenant}{battery}')
    result = run("serve", "--config", str(path), "--check")
    assert result.exit_code == ExitCode.BAD_CONFIG
    assert "tenant a: energy_until 2020-01-01T00:00:00+00:00 has passed; say a later time" in result.stderr
    assert "battery.until 2020-01-02T00:00:00+00:00 has passed; say a later time" in result.stderr
    assert "meter command: no-such-meter-here: " in result.stderr
    assert "expected a meter that can be read here" in result.stderr
    # A reload, which changes neither.
    assert run("serve", "--config", str(path), "--check", "--files-only").exit_code == 0
    assert run("serve", "--config", str(path), "--files-only").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("sizes", ["0", "1,x", ""])
def test_profile_refuses_sizes_that_are_none(sizes: str) -> None:
    assert run("profile", "digits", "--batches", sizes).exit_code == ExitCode.USAGE


@pytest.mark.slow
def test_profile_measures_writes_and_says_where(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="measures with the default engine")
    result = document("profile", "digits", "--quick", "--batches", "1,2", "--state-dir", str(tmp_path), "--json")
    assert Path(result["path"]).is_file()
    assert Path(result["path"]).is_relative_to(tmp_path)
    assert result["batches"] == [1, 2]
    assert {"exit", "p50_us", "p99_us", "energy_mj", "dominated"} <= set(result["exits"][0])
    assert [step["batch"] for step in result["steps"] if step["step"] == "head 0"] == [1, 2]


def test_load_sums_up_what_was_answered(daemon: type[FakeClient]) -> None:
    result = document("load", "digits", "--scenario", "single-stream", "--count", "5", "--energy-mj", "20", "--json")
    report = result["report"]
    assert (report["requests"], report["answered"], report["exits"]) == (5, 5, {"1": 5})
    assert report["met"] == 1.0
    assert report["accuracy"] is not None
    assert daemon.bounds_seen == [{"energy_mj": 20.0}] * 5
    assert "SingleStream: p90" in run("load", "digits", "--scenario", "single-stream", "--count", "5").stdout


def test_load_without_one_answer_fails_and_says_why(daemon: type[FakeClient]) -> None:
    daemon.failure = BoundsInfeasible("no")
    result = run("load", "digits", "--scenario", "offline", "--count", "3", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert "infeasible 3" in result.stderr
    assert json.loads(result.stdout)["report"]["refused"] == 3


@pytest.mark.parametrize("burst", ["1:2", "2:1:5", "1:2:0", "a:b:c", "5:60:10"])
def test_load_refuses_bursts_that_cannot_be(burst: str) -> None:
    assert run("load", "digits", "--burst", burst).exit_code == ExitCode.USAGE


@pytest.mark.slow
def test_train_without_such_a_recipe_is_a_usage_error() -> None:
    pytest.importorskip("torch", reason="recipes are PyTorch modules")
    result = run("train", "cats")
    assert result.exit_code == ExitCode.USAGE
    assert "fashion" in result.stderr


@pytest.mark.slow
def test_doctor_reports_every_finding_and_fails_only_on_failures() -> None:
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ok"] else 1)
    assert report["ok"] == all(finding["state"] != "fail" for finding in report["findings"])
    for finding in report["findings"]:
        assert set(finding) == {"check", "state", "found", "fix"}
        assert finding["state"] in ("ok", "warn", "fail")
        assert finding["state"] != "fail" or finding["fix"]
    checks = [finding["check"] for finding in report["findings"]]
    assert {"python", "numpy", "board", "power meter", "state directory", "runtime directory", "daemon"} <= set(checks)
    assert next(finding for finding in report["findings"] if finding["check"] == "daemon")["state"] == "warn"


def test_doctor_finds_a_directory_it_may_not_use(tmp_path: Path) -> None:
    from delen.clients.command_doctor import _directory

    file = tmp_path / "file"
    file.write_text("")
    finding = _directory("state directory", file / "below", "name another")
    assert (finding.state, finding.fix) == ("fail", "name another")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_DELEN_COMPLETE" in script
    assert "delen" in document("completion", shell, "--json")["script"]


def test_completion_offers_commands_without_importing_them() -> None:
    group = cli.delen
    assert isinstance(group, cli.DelenGroup)
    found = group.shell_complete(click.Context(group), "de")
    assert [item.value for item in found] == ["demo"]


def test_numbers_keep_three_figures_and_say_nothing_they_do_not_know() -> None:
    assert [tables.milliseconds(value) for value in (250, 2_345, 345_600)] == ["0.250", "2.35", "346"]
    assert tables.histogram([0, 0]).plain == "-"
    assert tables.histogram([3, 1]).plain == "▆▂ 75 25 %"
