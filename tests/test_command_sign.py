"""`delen sign`: keys, a signature, its check, and what each failure says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from delen.clients import tables
from delen.clients.cli import delen
from delen.clients.exit_codes import ExitCode
from delen.tests.small_bundles import digits_copy

pytest.importorskip("cryptography", reason="makes signatures: pip install 'delen[sign]'")


def run(*arguments: str | Path) -> Result:
    tables.out.cache_clear()
    tables.err.cache_clear()
    return CliRunner().invoke(delen, ["sign", *map(str, arguments)])


def test_a_key_is_made_a_bundle_signed_and_checked(tmp_path: Path) -> None:
    bundle, key = digits_copy(tmp_path), tmp_path / "release.pem"
    made = run("--new-key", key, "--json")
    assert made.exit_code == ExitCode.OK
    name = json.loads(made.stdout)["fingerprint"]
    signed = run(bundle, "--key", key, "--json")
    assert json.loads(signed.stdout)["key"] == name
    checked = run(bundle, "--check", f"{key}.pub")
    assert checked.exit_code == ExitCode.OK
    assert f"as signed by key {name}" in checked.stderr.replace("\n", " ")


def test_nothing_secret_is_printed(tmp_path: Path) -> None:
    key = tmp_path / "release.pem"
    said = run("--new-key", key)
    secret = key.read_text().splitlines()[1]
    assert secret not in said.stdout + said.stderr


def test_failures_say_what_is_wrong(tmp_path: Path) -> None:
    bundle, key = digits_copy(tmp_path), tmp_path / "release.pem"
    run("--new-key", key)
    again = run("--new-key", key)
    assert (again.exit_code, "never overwritten" in again.stderr) == (ExitCode.CANNOT_CREATE, True)
    unsigned = run(bundle, "--check", f"{key}.pub")
    assert (unsigned.exit_code, "is not signed" in unsigned.stderr) == (ExitCode.BAD_DATA, True)
    no_key = run(bundle, "--key", tmp_path / "nowhere")
    assert (no_key.exit_code, "cannot be read" in no_key.stderr) == (ExitCode.BAD_DATA, True)


def test_one_thing_at_a_time(tmp_path: Path) -> None:
    bundle, key = digits_copy(tmp_path), tmp_path / "k"
    for arguments in (
        (),
        (bundle,),
        ("--key", key),
        (bundle, "--key", key, "--check", key),
        (bundle, "--new-key", key),
    ):
        assert run(*arguments).exit_code == ExitCode.USAGE
    assert not key.exists()
