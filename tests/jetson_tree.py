"""A TX2's power modes and GPU clock as files: nvpmodel's status and devfreq's directory (L4T 32 layout)."""

from __future__ import annotations

from pathlib import Path

GPU = "sys/class/devfreq/17000000.gp10b"
HERTZ = (114_750_000, 420_750_000, 726_750_000, 1_300_500_000)


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", "ascii")


def jetson_tree(root: Path) -> Path:
    put(root, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MAXQ >")
    put(root, "var/lib/nvpmodel/status", "pmode:0000")
    put(root, f"{GPU}/available_frequencies", " ".join(map(str, HERTZ)))
    put(root, f"{GPU}/min_freq", str(HERTZ[0]))
    put(root, f"{GPU}/max_freq", str(HERTZ[-1]))
    put(root, f"{GPU}/cur_freq", str(HERTZ[0]))
    return root
