"""The real jetson-stats service over a made-up board: its figures are read, and its hanging and dying are noticed.

In a root directory of its own (an overlay, in a mount namespace), since the service's paths are fixed. jetson-stats is
AGPL and is installed for this test alone, into a directory of its own. Skips, saying why, where that cannot be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from delen.tests.board_trees import BOARDS, plant, plant_board
from delen.tests.source_files import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Run in a mount namespace: a root of its own over this one, with the made-up tree where the service looks for it.
SCRIPT = """
set -e
mount -t tmpfs tmpfs "$1"; mkdir "$1/up" "$1/work" "$1/tree"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/tree"
for each in proc dev sys; do mount --rbind "/$each" "$1/tree/$each"; done
mkdir "$1/tree/fake_sys"; mount --bind "$2" "$1/tree/fake_sys"
echo 'jtop:x:990:root' >> "$1/tree/etc/group"
R="$1/tree"; shift 2; exec chroot "$R" "$@"
"""
GPU = {
    "device/of_node/name": "gpu",
    "cur_freq": "306000000",
    "max_freq": "1020000000",
    "min_freq": "306000000",
    "governor": "nvhost_podgov",
    "device/load": "450",
    "device/railgate_enable": "0",
    "device/enable_3d_scaling": "1",
    "device/power/control": "auto",
}
CPU = ("scaling_min_freq", "scaling_max_freq", "scaling_cur_freq", "cpuinfo_min_freq", "cpuinfo_max_freq")


def _installed(folder: Path) -> Path:
    """jetson-stats in a directory of its own."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "jetson-stats>=4.3"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"jetson-stats cannot be installed here: {error}")
    return folder


def _made_up_board(root: Path) -> Path:
    """What the service reads of an Orin Nano; returns its /sys."""
    system = plant_board(root, BOARDS["orin-nano"]) / "sys"
    for name, text in GPU.items():
        plant(system / "class/devfreq/17000000.gpu" / name, text)
    for name in ("class/power_supply", "kernel/debug/clk", "class/hwmon/hwmon0", "class/thermal"):
        (system / name).mkdir(parents=True)
    used = " 1673575 1889 461134 59280326 55795 0 10322 0 0 0\n"
    plant(system / "stat", f"cpu {used}cpu0{used}cpu1{used}")
    for number in (0, 1):
        folder = system / f"devices/system/cpu/cpu{number}/cpufreq"
        plant(folder / "scaling_governor", "schedutil")
        for name in (*CPU, "cpuinfo_cur_freq"):
            plant(folder / name, "200000")
    return system


def test_the_real_service_is_read_and_its_failures_are_noticed(tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1), for a root directory of its own")
    site, system, own = _installed(tmp_path / "site"), _made_up_board(tmp_path / "board"), tmp_path / "root"
    own.mkdir()
    path = os.pathsep.join([str(ROOT.parent), str(site)])
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", SCRIPT, "jtop", str(own), str(system)]
    command += ["env", f"PYTHONPATH={path}", sys.executable, str(ROOT / "tests/fake_jtop_service.py")]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
    if "mount" in ended.stderr and not ended.stdout:
        pytest.skip(f"no overlay can be mounted here: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr
    first, second, stopped, again, frozen, dead = map(json.loads, ended.stdout.splitlines())
    (start_us, start_mj, span), (end_us, end_mj, same) = first["samples"][-1], second["samples"][-1]
    # 4,984 mV, 1,000 to 1,032 mA.
    assert (end_mj - start_mj) / (end_us - start_us) * 1e6 == pytest.approx(5064, rel=0.02)
    assert span == same
    assert stopped["state"] in ("frozen", "missing")
    assert again["samples"][-1][2] > span, "what was drawn meanwhile is not known"
    assert (frozen["state"], dead["state"]) == ("frozen", "missing")
