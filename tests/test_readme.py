"""The README tells the truth: its `sh` and `python` blocks run as they stand, in order, against a real daemon."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from delen.daemon.config import load_config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.e2e
@pytest.mark.slow
def test_every_block_marked_sh_or_python_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the default engine")
    (tmp_path / "ask.py").write_text("\n".join(blocks("python")))
    script = "\n".join(["set -eu", *blocks("sh"), f"{sys.executable} ask.py", "kill $!", "wait $!"])
    # Short, because a socket's path has room for 107 bytes.
    environ = {
        **os.environ,
        "DELEN_RUNTIME_DIR": str(tmp_path / "r"),
        "DELEN_STATE_DIR": str(tmp_path / "s"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (tmp_path / "out").open("w") as out:
        command = ["bash", "-c", script]
        shell = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=out, stderr=out, start_new_session=True)
        try:
            code = shell.wait(180)
        finally:
            # Whatever failed, the daemon that a block put in the background ends with it.
            subprocess.run(["pkill", "-s", str(shell.pid)], check=False)
            shell.wait()
    said = (tmp_path / "out").read_text()
    assert code == 0, said + (tmp_path / "delen.log").read_text()
    assert "Offer(" in said


def test_blocks_that_are_not_run_say_why() -> None:
    for block in blocks("text"):
        assert "text:" in block, block


@pytest.mark.parametrize("shown", blocks("toml"))
def test_the_settings_shown_are_settings(tmp_path: Path, shown: str) -> None:
    file = tmp_path / "delen.toml"
    file.write_text(shown)
    config = load_config(file, {}, {}, 1000)
    assert config.tenants[0].name == "camera"


def test_every_file_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|md))`", README)) | set(re.findall(r"\]\(([\w/]+\.md)\)", README))
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing
