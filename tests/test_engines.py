"""Engines by name: what is not installed is said with what to do about it, since boards and desktops differ."""

from __future__ import annotations

import sys

import pytest

from delen.daemon.engines import make_runner
from delen.exits.runner import EngineFault


def test_an_engine_that_nobody_knows_is_named_beside_those_that_are() -> None:
    with pytest.raises(EngineFault, match="no engine 'tflite'; known: onnx, torch, tensorrt, replay"):
        make_runner("tflite", "auto", 1)


def test_onnx_runtime_is_not_taken_for_a_gpu() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineFault, match="no device 'cuda' for ONNX Runtime; expected auto or cpu") as caught:
        make_runner("onnx", "cuda", 1)
    assert caught.value.kind == "device"


@pytest.mark.parametrize(
    ("engine", "module", "words"),
    [
        ("onnx", "onnxruntime", r"pip install 'delen\[onnx\]'"),
        ("tensorrt", "tensorrt", "JetPack's, for the system's Python: .* --system-site-packages"),
    ],
)
def test_an_engine_that_is_not_installed_says_how_to_get_it(
    engine: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"delen.exits.{engine}_runner", raising=False)
    with pytest.raises(EngineFault, match=words) as caught:
        make_runner(engine, "auto", 1)
    assert caught.value.kind == "unsupported"
