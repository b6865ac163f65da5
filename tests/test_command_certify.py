"""`delen calibrate` and `delen certify` as a user runs them: figures, files, exit codes, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from delen.clients.cli import delen
from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.calibrations import find_own
from delen.exits.runner import EngineFault
from delen.exits.samples import load_samples
from delen.profiles.schema import Profile
from delen.tests.sample_profile import sample_profile

pytest.importorskip("onnxruntime", reason="runs digits on ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = pytest.mark.slow
TEST = load_samples("digits")
BUNDLE = load_bundle(shipped_directory() / "digits")


def run(*words: str) -> Result:
    return CliRunner().invoke(delen, list(words))


def data(folder: Path, rows: slice = slice(None), **changed: Any) -> str:
    arrays = {"x": TEST.images[rows], "y": TEST.labels[rows], **changed}
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def calibrated(state: Path, spec: str) -> Result:
    return run("calibrate", "digits", "--data", spec, "--state-dir", str(state), "--json")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs from a file, not from seconds of measuring."""

    def made(*_: object) -> Profile:
        return sample_profile(bundle=BUNDLE.digest)

    monkeypatch.setattr("delen.daemon.labelled.profile_of", made)


def test_calibrate_writes_what_the_daemon_will_take(tmp_path: Path) -> None:
    result = calibrated(tmp_path, data(tmp_path))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    own = find_own(tmp_path, BUNDLE)
    assert own is not None
    assert told["path"] == str(own.path)
    assert [entry["temperature"] for entry in told["exits"]] == list(own.temperatures)
    assert told["samples"] == len(own.calibration.fit) == 360
    assert told["exits"][2]["accuracy"] == pytest.approx(float(own.calibration.correct[:, 2].mean()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": np.full(360, 11)}, "labels go from 0 to 9"),
        ({"x": np.zeros((360, 1, 5, 5), np.float32)}, "shape"),
        ({"x": np.full((360, 1, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"x": TEST.images[:20], "y": TEST.labels[:20]}, "at least 33"),
    ],
)
def test_calibrate_refuses_data_that_proves_nothing_and_writes_no_file(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    result = calibrated(tmp_path, data(tmp_path, **changed))
    assert result.exit_code == 65
    assert said in result.stderr
    assert find_own(tmp_path, BUNDLE) is None


def test_calibrate_says_so_where_the_network_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise EngineFault("output", "head 1 gave NaN or infinite logits")

    monkeypatch.setattr("delen.daemon.labelled.run_all", broken)
    result = calibrated(tmp_path, data(tmp_path))
    assert result.exit_code == 65
    assert "head 1 gave NaN" in result.stderr
    assert "train and export it again" in result.stderr


def test_calibrate_warns_of_a_class_it_has_seen_nothing_of(tmp_path: Path) -> None:
    kept = TEST.labels != 3
    result = calibrated(tmp_path, data(tmp_path, x=TEST.images[kept], y=TEST.labels[kept]))
    assert result.exit_code == 0
    assert json.loads(result.stdout)["missing"] == [3]
    assert "no sample of 1 classes (3)" in result.stderr


@pytest.mark.usefixtures("quick")
def test_certify_explains_a_plan_and_draws_it(tmp_path: Path) -> None:
    result = run("certify", "digits", "--accuracy", "0.9", "--state-dir", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["plan"]["accuracy"] == 0.9
    assert told["plan"]["n"] == 180
    assert told["plan"]["time_us"] < told["fixed_plan"]["time_us"] < told["full_us"]
    assert len(told["fixed"]) == 3
    spoken = run("certify", "digits", "--accuracy", "0.9", "--state-dir", str(tmp_path))
    assert "Valid for data exchangeable with the calibration set" in spoken.stderr
    assert "of running to the end" in spoken.stderr


@pytest.mark.usefixtures("quick")
def test_certify_says_what_cannot_be_certified_and_what_can(tmp_path: Path) -> None:
    result = run("certify", "digits", "--accuracy", "0.96", "--state-dir", str(tmp_path))
    assert result.exit_code == 3
    assert "cannot be certified: best is 0.94" in result.stderr
    assert "labelled samples would" in result.stderr


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("share", ["0", "1", "nan", "inf"])
@pytest.mark.parametrize("option", ["--accuracy", "--certainty"])
def test_certify_takes_shares_between_nothing_and_all(option: str, share: str) -> None:
    result = run("certify", "digits", "--accuracy", "0.9", option, share)
    assert result.exit_code == 2
    assert option in result.output


def test_certify_takes_the_users_own_calibration(tmp_path: Path) -> None:
    assert calibrated(tmp_path, data(tmp_path)).exit_code == 0
    result = run("certify", "digits", "--accuracy", "0.9", "--state-dir", str(tmp_path), "--json")
    assert json.loads(result.stdout)["tested"] == 240
