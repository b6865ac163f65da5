"""Arguments, settings of the shell and answers of a fake board: one line that says what to do, and a known exit code.

In process, without a daemon: what is tried is how a command line is read and refused, not what it does when it is
right. No command here starts anything, or writes outside a directory of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from delen.clients.cli import COMMANDS, delen
from delen.clients.exit_codes import ExitCode
from delen.daemon.config import FROM_SHELL
from delen.tests.faults.counts import count, randomness

pytestmark = [pytest.mark.slow, pytest.mark.faults]

VALUES = (
    *(
        "",
        " ",
        "-",
        "--",
        "---",
        "0",
        "-1",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "1" * 5_000,
        "0x10",
        "\u0661",
        "1_000",
        "1.5.5",
    ),
    *("x", "x" * 300, "x" * 5_000, "a b", "a\nb", "\x1b[2Jx", "\u202ex", "é", "\udcff", "*", "$(id)", "`id`", "%s%n"),
    *(
        "./no/such",
        "/dev/full",
        "/dev/null",
        "/proc/self/mem",
        ".",
        "tcp://*:1",
        "ipc://",
        "http://x",
        "a=b",
        "=",
        "[1",
    ),
)
# By command, options that take something; none that would start, measure or train anything.
OPTIONS: Mapping[str, Sequence[str]] = {
    "serve": (
        "--config",
        "--tenant",
        "--network",
        "--engine",
        "--threads",
        "--watts",
        "--log",
        "--policy",
        "--journal",
    ),
    "infer": ("--sample", "--latency-ms", "--accuracy", "--certainty", "--conditions", "--tenant", "--endpoint"),
    "networks": ("--tenant", "--endpoint", "--timeout-s"),
    "ps": ("--tenant", "--endpoint", "--every-s"),
    "sign": ("--key", "--check"),
    "certify": ("--accuracy", "--certainty", "--state-dir"),
    "simulate": ("--journal", "--set", "--policy", "--case", "--seeds", "--data"),
    "network": ("--tenant", "--endpoint"),
    "keys": ("--uid", "--network", "--tcp", "--port", "--rate", "--out", "--config-dir", "--overlap"),
    "gateway": ("--tenant", "--endpoint"),
}
WORDS: Mapping[str, Sequence[str]] = {
    "keys": ("init", "new", "list", "show", "revoke", "rotate", "fingerprint", "acme"),
    "network": ("add", "remove", "swap", "digits"),
    "infer": ("digits", "fashion", "shoe.png"),
}
# Every one of these must be refused for what it is.
WRONG: Mapping[str, Sequence[str]] = {
    **{f"{name} with an option it has not": (name, "--no-such-option") for name in COMMANDS},
    **{f"{name} with too much": (name, *["x"] * 40) for name in ("ps", "networks", "doctor", "sbom", "serve")},
    "no such command": ("sudo",),
    "an option of nobody's": ("--sudo",),
    "a command of spaces": (" ",),
    "a command with a newline": ("ps\n",),
    "a word that turns the line round": ("ps", "\u202egnp"),
    "an option that clears the screen": ("--\x1b[2J",),
    "a socket of bytes that are no text": ("ps", "--endpoint", "\udcff"),
    "a setting of bytes that are no text": ("serve", "--check", "--dev", "--policy", "\udcff"),
    "a key of bytes that are no text, told to programs": ("sign", "x", "--key", "\udcff", "--json"),
    "a command of 5,000 letters": ("x" * 5_000,),
    "a sample below none": ("infer", "digits", "--sample", "-1"),
    "a bound of words": ("infer", "digits", "--sample", "0", "--latency-ms", "fast"),
    "a bound of nothing": ("infer", "digits", "--sample", "0", "--latency-ms", "0"),
    "an accuracy above all": ("infer", "digits", "--sample", "0", "--accuracy", "2"),
    "an objective of nobody's": ("infer", "digits", "--sample", "0", "--objective", "speed"),
    "a picture that is none": ("infer", "digits", "no-such-picture.png"),
    "conditions that are not there": ("infer", "digits", "--sample", "0", "--conditions", "nowhere.json"),
    "an endpoint that is none": ("ps", "--endpoint", "http://localhost"),
    "a tenant that leaves its place": ("ps", "--tenant", "../../x"),
    "a configuration that is not there": ("serve", "--check", "--config", "nowhere.toml"),
    "a configuration that is a directory": ("serve", "--check", "--config", "."),
    "no threads": ("serve", "--check", "--dev", "--threads", "0"),
    "an engine of nobody's": ("serve", "--check", "--dev", "--engine", "tpu"),
    "a policy of nobody's": ("serve", "--check", "--dev", "--policy", "luck"),
    "a tenant that is no name": ("serve", "--check", "--dev", "--tenant", "a/b"),
    "a tenant with a newline": ("serve", "--check", "--dev", "--tenant", "a\nb"),
    "a bundle that is not there": ("sign", "nowhere", "--check", "nothing.pub"),
    "a key that is not there": ("keys", "show", "nobody", "--config-dir", "."),
    "a key's name that is a path": ("keys", "new", "../x", "--uid", "1", "--network", "digits", "--config-dir", "."),
    "a uid of nobody's": ("keys", "new", "x", "--uid", "no such user", "--network", "digits", "--config-dir", "."),
    "a port out of range": ("keys", "new", "x", "--tcp", "h", "--port", "70000", "--network", "d", "--config-dir", "."),
    "a journal that is not there": ("simulate", "--journal", "nowhere"),
    "a scenario of nobody's": ("simulate", "luck"),
    "no profile": ("import", ".", "--out", "x"),
}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    environ = {name: str(tmp_path) for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")}
    return CliRunner(env={**environ, "DELEN_RUNTIME_DIR": str(tmp_path / "run"), "COLUMNS": "100"})


def ended(runner: CliRunner, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """The exit code, once all that must hold of any command's end does."""
    done = runner.invoke(delen, list(arguments), env=environ)
    said = f"delen {' '.join(arguments)!r:.200}, {environ}: {done.exit_code}: {done.output[-1500:]}"
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{said}: {done.exception!r}"
    assert done.exit_code in set(ExitCode), said
    assert done.exit_code != ExitCode.INTERNAL, said
    assert "Traceback" not in done.output, said
    # A terminal is told words, not orders.
    assert all(char.isprintable() or char in "\n\t" for char in done.stderr), said
    if done.exit_code not in (ExitCode.OK, ExitCode.INTERRUPTED):
        assert done.stderr, said
    if "--json" in arguments and done.stdout and done.exit_code != ExitCode.OK and "--help" not in arguments:
        json.loads(done.stdout.splitlines()[-1] if done.stdout.count("\n") == 1 else done.stdout)
    return int(done.exit_code)


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_a_wrong_command_line_is_refused(runner: CliRunner, arguments: Sequence[str]) -> None:
    assert ended(runner, arguments) != ExitCode.OK


@pytest.mark.parametrize("name", FROM_SHELL)
def test_settings_of_the_shell_are_read_with_as_much_care(runner: CliRunner, name: str) -> None:
    for value in VALUES:
        if "\0" in value or "\udcff" in value:
            continue
        ended(runner, ("serve", "--check", "--dev"), {f"DELEN_{name.upper()}": value})


def test_any_command_line_ends_in_a_known_way(runner: CliRunner) -> None:
    draw = randomness("command lines")
    for _ in range(count("P10 examples of each property") // 10):
        ended(runner, _arguments(draw), _environ(draw))
    assert not (Path.cwd() / "run").exists(), "nothing was started"


def _arguments(draw: Random) -> list[str]:
    name = draw.choice([*OPTIONS])
    made = [name, "--check"] if name == "serve" else [name]
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        how = draw.random()
        if how < 0.25:
            made.append(draw.choice(WORDS.get(name, ("x",))))
        elif how < 0.35:
            made.append(draw.choice(VALUES))
        elif how < 0.45:
            made.append(draw.choice(["--json", "--help", "--dev", "--watch\0", "-x", "--", "-h"]))
        else:
            made += [draw.choice(OPTIONS[name]), draw.choice(VALUES)]
    if name in ("gateway", "simulate"):
        # Right, they would run.
        made.append("--no-such-option")
    if name == "keys" and "--config-dir" not in made:
        made += ["--config-dir", "."]
    return made


def _environ(draw: Random) -> dict[str, str]:
    names = (
        "DELEN_TENANT",
        "DELEN_CONFIG",
        "DELEN_KEY_FILE",
        "DELEN_DATA",
        "DELEN_LOG_LEVEL",
        "DELEN_THREADS",
        "COLUMNS",
    )
    found = {draw.choice(names): draw.choice(VALUES) for _ in range(draw.choice([0, 0, 1, 2]))}
    return {name: value for name, value in found.items() if _for_the_shell(value)}


def _for_the_shell(value: str) -> bool:
    """Whether a shell could pass this on at all."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return "\0" not in value
