"""Messages of many tenants played to a daemon: each has its end, whoever sent it, and silence is not waited out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delen.clients import open_loop
from delen.clients.bounds import Bounds
from delen.clients.open_loop import Message, NoEnd, play, playing
from delen.clients.wire import VERSION, Answer, Infer, Refusal, TensorSpec, encode

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def message(when_us: int, tenant: str, request_id: bytes, **bounds: float) -> Message:
    spec = TensorSpec("float32", (1, 8, 8))
    infer = Infer(VERSION, request_id, "digits", (spec,), Bounds(**bounds))  # type: ignore[arg-type]
    return when_us, tenant, encode(infer, (np.zeros((1, 8, 8), np.float32),))


def test_every_message_has_its_end_and_none_is_sent_early(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    # Two tenants with the same ids, one of which asks what cannot be.
    messages = [message(200 * n, "ab"[n % 2], b"%d" % (n // 2), accuracy=1.0 if n % 2 else 0.9) for n in range(100)]
    with playing(["a", "b"], ["digits"], tmp_path / "state") as play_again:
        for _ in range(2):
            ends, late_us = play_again(messages)
            assert set(ends) == {(tenant, b"%d" % n) for tenant in "ab" for n in range(50)}
            assert {type(end) for (tenant, _), end in ends.items() if tenant == "a"} == {Answer}
            assert {type(end) for (tenant, _), end in ends.items() if tenant == "b"} == {Refusal}
            assert len(late_us) == 100
            assert min(late_us) >= 0


def test_a_daemon_that_says_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "ENDS_S_MAX", 0.05)
    with pytest.raises(NoEnd, match="is the daemon running"):
        play({"a": f"ipc://{tmp_path}/nobody"}, [message(0, "a", b"1")])
