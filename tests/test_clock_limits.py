"""The file of a GPU's limits: what is in it is believed only as far as it can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from delen.daemon.clock_limits import Limits, forget, limits_path, read_limits, remember
from delen.profiles.board_clocks import ClockError, find_gpu
from delen.tests.jetson_tree import jetson_tree, put


def test_what_is_remembered_is_read_again_until_it_is_forgotten(tmp_path: Path) -> None:
    root, state = jetson_tree(tmp_path / "root"), tmp_path / "state"
    put(root, "proc/sys/kernel/random/boot_id", "one")
    gpu = find_gpu(root)
    assert gpu is not None
    assert read_limits(state, root) is None
    remember(state, root, gpu, 5, 7)
    assert read_limits(state, root) == Limits("17000000.gp10b", 5, 7, "one", os.getpid())
    put(root, "proc/sys/kernel/random/boot_id", "two")
    assert read_limits(state, root) is None
    forget(state)
    assert not limits_path(state).exists()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        '{"gpu":"a"}',
        '{"gpu":"a","min_hz":9,"max_hz":5,"boot":"","pid":1}',
        '{"gpu":"a","min_hz":-9,"max_hz":5,"boot":"","pid":1}',
        '{"gpu":"a","min_hz":9,"max_hz":999999999999999,"boot":"","pid":1}',
        '{"gpu":"a","min_hz":1,"max_hz":5,"boot":"","pid":-1}',
    ],
)
def test_what_cannot_be_limits_is_refused_with_what_to_do(tmp_path: Path, said: str) -> None:
    limits_path(tmp_path).write_text(said)
    with pytest.raises(ClockError, match=r"gpu-clock\.json .*see the GPU's limits yourself, and remove it"):
        read_limits(tmp_path, tmp_path)


def test_a_holder_that_is_gone_holds_nothing() -> None:
    assert Limits("a", 1, 2, "", os.getpid()).held
    assert not Limits("a", 1, 2, "", 2**22).held
