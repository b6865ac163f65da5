"""Every limit has one name, and whoever meets it is told that name: of all fields of `Limits`, none is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import delen
from delen.clients.wire import HEADER_BYTES_MAX, VERSION, Infer, TensorSpec, WireError, decode_request, encode
from delen.daemon import partings
from delen.daemon.config import Limits

ROOT = Path(delen.__file__).parent
# Names that stand in no text but are put into one (`Intake.full`).
PARTS = ("queued_max", "queued_bytes_max")
# Nobody is refused, dropped or cut off by these with a word, and why.
SILENT = {
    "audit_share": "how much idle time audits get; nothing is said by it",
    "audits_max": "an audit more is not begun; no answer depends on one",
    "backoff_ms_max": "how soon a worker is started again",
    "backoff_ms_min": "how soon a worker is started again",
    "canary_ms": "when a network is tried by itself",
    "connections_backlog": "the kernel's queue: who connects waits or tries again, by the kernel's word",
    "fault_window_ms": "within it faults_max counts, which is named",
    "handshake_ms_max": "the library drops who has not said who it is; there is nobody to tell",
    "held_max": "a request is not stopped for later but answered with what it reached, and the answer says so",
    "hold_ms": "an answer comes earlier, with what it reached",
    "patience_ms": "when a request without a deadline is due",
    "power_w_max": "runs wait for power as they wait for the device; whoever is refused for that is told the time",
    "receive_count_max": "how much is read in a turn; the rest waits for the next",
    "restart_ms_min": "part of what start_ms_max names",
    "run_factor_max": "part of when a run counts as hung, which `engine_crashed` says",
    "run_ms_min": "part of when a run counts as hung, which `engine_crashed` says",
    "session_kept_ms": "the bounds that a hello acknowledges are the session's",
    "suspects_max": "the oldest suspicion is forgotten, in its tenant's favour",
    "traces_max": "traces says how many there are",
    "wait_ms_max": "when a request without a deadline goes first",
}


def said() -> Iterator[str]:
    """Whatever the daemon may say: every text of its source that is no docstring."""
    for path in [*sorted((ROOT / "daemon").glob("*.py")), ROOT / "clients" / "wire.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                # Of one word are names and keys.
                yield node.value if " " in node.value or node.value in PARTS or "limits." in node.value else ""


def test_every_limit_is_named_by_the_words_of_who_enforces_it_or_is_silent_for_a_reason() -> None:
    words = set(re.findall(r"\w+", "\n".join(said())))
    assert set(Limits.__struct_fields__) - words == set(SILENT)


def test_refusals_name_the_limit_they_enforce_and_its_number() -> None:
    limits = Limits(sessions_max=3, answer_window_ms=2000, answers_kept_max=5, answers_kept_bytes_max=77)
    stranger = partings.stranger(b"1", limits).message
    assert "limits.sessions_max is 3" in stranger
    unknown = partings.unknown(b"1", limits).message
    for words in ("2 s (limits.answer_window_ms)", "5 (limits.answers_kept_max)", "77 bytes"):
        assert words in unknown
    with pytest.raises(WireError, match=r"at most 3 are allowed \(payload_bytes_max\)"):
        decode_request(encode(Infer(VERSION, b"1", "net", (TensorSpec("uint8", (4,)),)), (bytes(4),)), 3)
    with pytest.raises(WireError, match=rf"at most {HEADER_BYTES_MAX} are allowed \(header_bytes_max\)"):
        decode_request([bytes(HEADER_BYTES_MAX + 1)], 3)
    with pytest.raises(WireError, match="tensors_max"):
        decode_request([*encode(Infer(VERSION, b"1", "net", (TensorSpec("uint8", (1,)),)), (b"1",)), b"2"], 3)
