"""Two versions measured in turns: each runs its own code, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from delen.clients.command_bench import bench_command
from delen.clients.private_daemon import DaemonFailed
from delen.clients.rtt_against import CERTAIN, STARTS, bench_against, is_checkout, median_interval

ROOT = Path(__file__).parents[1]
# Asks twice for every answer, which no noise makes up for.
TWICE = """\
        self._wait(call)
        if timeout_s is None:
            self.infer(network, x, timeout_s=5.0)
        return result_of(call)
"""


@pytest.mark.parametrize(
    ("count", "places"),
    [(1, (0, 0)), (2, (0, 1)), (CERTAIN - 1, (0, 4)), (CERTAIN, (0, 5)), (9, (1, 7)), (12, (2, 9)), (25, (7, 17))],
)
def test_the_interval_of_a_median_is_the_sign_test_s(count: int, places: tuple[int, int]) -> None:
    # By the tables: of 12 values the 3rd and the 10th, of 25 the 8th and the 18th.
    assert median_interval([3.0 * place for place in reversed(range(count))]) == tuple(3.0 * place for place in places)


def test_what_is_no_checkout_is_told_before_anything_starts(tmp_path: Path) -> None:
    assert is_checkout(ROOT)
    ended = CliRunner().invoke(bench_command, ["rtt", "--against", str(tmp_path)])
    assert ended.exit_code == 2
    assert "is no checkout of delen" in ended.output
    assert "git worktree add" in ended.output
    shown = CliRunner().invoke(bench_command, ["rtt", "--help"])
    assert f"[default: {STARTS}]" in " ".join(shown.output.split())
    ended = CliRunner().invoke(bench_command, ["rtt", "--starts", "3"])
    assert ended.exit_code == 2
    assert "--against" in ended.output


def copy_of(folder: Path, client: str) -> Path:
    """A checkout that is this one, but for how its client is written."""
    folder.mkdir()
    for each in ROOT.iterdir():
        if each.name not in ("clients", ".venv"):
            (folder / each.name).symlink_to(each)
    (folder / "clients").mkdir()
    for each in (ROOT / "clients").iterdir():
        (folder / "clients" / each.name).symlink_to(each)
    (folder / "clients" / "client.py").unlink()
    (folder / "clients" / "client.py").write_text(client)
    return folder


@pytest.mark.e2e
@pytest.mark.slow
def test_each_side_runs_its_own_version(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    text = (ROOT / "clients" / "client.py").read_text()
    slower = text.replace("        self._wait(call)\n        return result_of(call)\n", TWICE, 1)
    assert slower != text
    command = ["rtt", "--against", str(copy_of(tmp_path / "twice", slower)), "--starts", "1", "--rounds", "4"]
    ended = CliRunner().invoke(bench_command, [*command, "--json"])
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout)
    assert [size["input_bytes"] for size in report["sizes"]] == [4 * 784, 4 * 3 * 224 * 224]
    for size in report["sizes"]:
        assert size["n"] == 200
        assert size["ratio_low"] == size["ratio"] == size["ratio_high"] < 0.9
        assert 0 < size["this_engine_p50_us"] < size["this_p50_us"] < size["other_p50_us"]


@pytest.mark.e2e
@pytest.mark.slow
def test_a_version_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    broken = copy_of(tmp_path / "broken", "raise ImportError('this version has no client')")
    with pytest.raises(DaemonFailed, match=r"(?s)broken failed; it said:.*ImportError: this version has no client"):
        bench_against(broken, 1, 2)
