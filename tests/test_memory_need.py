"""What a bundle will take is reckoned from its files and edges, and is no less than what it does take."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.memory_need import ENGINE_BYTES_OTHER, MIB, engine_bytes, memory_need


def test_weights_go_with_files_and_features_with_the_batch() -> None:
    fashion, digits = (load_bundle(shipped_directory() / name) for name in ("fashion", "digits"))
    assert memory_need(fashion, 32).features == pytest.approx(32 * memory_need(fashion, 1).features, rel=1e-3)
    assert memory_need(fashion, 32).weights == memory_need(fashion, 1).weights > 3 * MIB
    assert memory_need(digits, 32).total < memory_need(fashion, 32).total


def test_engines_weigh_by_themselves() -> None:
    assert engine_bytes("onnx") < engine_bytes("torch") < engine_bytes("tensorrt") == ENGINE_BYTES_OTHER


@pytest.mark.slow
@pytest.mark.e2e
def test_the_estimate_is_no_less_than_what_is_taken_and_separate_networks_take_more() -> None:
    pytest.importorskip("onnxruntime", reason="loads with ONNX Runtime: pip install 'delen[onnx]'")
    from delen.profiles.memory_bench import bench_memory

    (row,) = bench_memory([Path(shipped_directory() / "fashion")])
    assert row.engine_mib + row.one_run_mib < row.engine_estimated_mib + row.estimated_mib
    assert row.estimated_mib < 3 * row.one_run_mib, "an estimate of anything is no estimate"
    assert row.separate_run_mib > 1.2 * row.one_run_mib
