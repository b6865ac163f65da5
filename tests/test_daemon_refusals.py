"""The real daemon given what it must refuse: bad messages, bad bundles and profiles, bad times to start.

Every refusal must say what was wrong, cost nobody else anything, and leave the books balanced.
"""

from __future__ import annotations

import itertools
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from delen.clients.client import Client
from delen.clients.errors import BadRequest, UnknownNetwork, Unreachable
from delen.clients.exit_codes import ExitCode
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import HEADER_BYTES_MAX, Refusal
from delen.tests.daemon_fixture import PAYLOAD_BYTES_MAX, WAIT_S_MAX, Plain, delen, serving, worker_of
from delen.tests.small_bundles import digits_copy, edit

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

X = bytes(4 * 64)
ONE_TEST = {"all_of": [{"metric": "exit", "operator": "less", "threshold": 1}]}
SPEC = [["float32", [1, 8, 8]]]
numbers = itertools.count(1)


def header(*fields: Any, name: str = "infer") -> bytes:
    """A header that says what the test wants, right or wrong, with a fresh id."""
    return msgspec.msgpack.encode([name, 1, b"bad%d" % next(numbers), *fields])


def floats(count: int) -> list[Any]:
    return [["float32", [count]]]


# ---- bad messages

BAD_MESSAGES: dict[str, tuple[list[bytes], str, str]] = {
    "unknown network": ([header("nosuch", SPEC, {}), X], "unknown_network", "yours are: digits"),
    "wrong shape": ([header("digits", [["float32", [8, 8]]], {}), X], "shape", "[1, 8, 8], not [8, 8]"),
    "a batch": ([header("digits", [["float32", [2, 1, 8, 8]]], {}), 2 * X], "shape", "not [2, 1, 8, 8]"),
    "wrong dtype": ([header("digits", [["int32", [1, 8, 8]]], {}), X], "dtype", "takes float32, not int32"),
    "no such dtype": ([header("digits", [["object", [1, 8, 8]]], {}), X], "dtype", "expected one of"),
    "negative side": ([header("digits", [["float32", [-1, -8, 8]]], {}), X], "shape", "sides of 0 to"),
    "NaN bound": ([header("digits", SPEC, {"latency_ms": math.nan}), X], "bounds", "latency_ms is nan"),
    "infinite bound": ([header("digits", SPEC, {"energy_mj": math.inf}), X], "bounds", "energy_mj is inf"),
    "negative bound": ([header("digits", SPEC, {"latency_ms": -5.0}), X], "bounds", "latency_ms is -5"),
    "no accuracy": ([header("digits", SPEC, {"accuracy": 0.0}), X], "bounds", "accuracy is 0"),
    "a bound of words": ([header("digits", SPEC, {"latency_ms": "fast"}), X], "malformed", "latency_ms"),
    "unknown bound": ([header("digits", SPEC, {"speed": 9}), X], "malformed", "speed"),
    "unknown field": ([header("digits", SPEC, {}, "traceparent", "more"), X], "malformed", "infer"),
    "unknown message": ([header(name="sudo")], "malformed", "sudo"),
    "conditions for too few exits": (
        [header("digits", SPEC, {"conditions": [ONE_TEST]}), X],
        "infeasible",
        "conditions for 1 exits; digits has 3",
    ),
    "another version": ([msgspec.msgpack.encode(["infer", 2, b"v2", "digits", SPEC, {}]), X], "version", "version 2"),
    "truncated header": ([header("digits", SPEC, {})[:-4], X], "malformed", "not msgpack"),
    "no header": ([b""], "malformed", "empty message"),
    "empty header": ([b"", b"", X], "malformed", "not msgpack"),
    "huge header": ([bytes(HEADER_BYTES_MAX + 1)], "malformed", f"at most {HEADER_BYTES_MAX}"),
    "no id": ([msgspec.msgpack.encode(["ping", 1, b""])], "malformed", "id of 0 bytes"),
    "long id": ([msgspec.msgpack.encode(["ping", 1, bytes(65)])], "malformed", "id of 65 bytes"),
    "truncated tensor": ([header("digits", SPEC, {}), X[:-1]], "shape", "needs 256 bytes, the frame has 255"),
    "no tensor": ([header("digits", SPEC, {})], "malformed", "1 tensors described and 0 sent"),
    "two tensors": ([header("digits", SPEC * 2, {}), X, X], "malformed", "2 tensors described and 2 sent"),
    "a thousand frames": ([header("digits", SPEC, {}), *[X] * 1000], "malformed", "expected exactly 1"),
    "too large": (
        [header("digits", floats(PAYLOAD_BYTES_MAX // 4 + 1), {}), bytes(PAYLOAD_BYTES_MAX + 4)],
        "too_large",
        f"at most {PAYLOAD_BYTES_MAX}",
    ),
}


@pytest.mark.parametrize("kind", BAD_MESSAGES)
def test_a_bad_message_is_refused_in_words_and_harms_nobody(plain: Plain, kind: str) -> None:
    frames, code, words = BAD_MESSAGES[kind]
    before = plain.row()
    plain.socket.send_multipart(frames)
    refusal = plain.receive()
    assert isinstance(refusal, Refusal), refusal
    assert (refusal.code, words in refusal.message) == (code, True), refusal
    # The connection still works, nothing was run, and the books say so.
    plain.answers([plain.infer()])
    after = plain.row()
    assert after.accepted == after.answered == before.accepted + 1
    assert after.refused == before.refused + 1


def test_a_refusal_carries_the_request_s_id_wherever_it_could_be_read(plain: Plain) -> None:
    for fields in (["digits", SPEC, {"speed": 9}], ["digits"], ["digits", SPEC, {}, "more"], ["digits", SPEC, {}]):
        message = header(*fields)
        plain.socket.send_multipart([message])
        assert plain.receive().id == msgspec.msgpack.decode(message)[2]


def test_a_frame_above_the_socket_s_limit_costs_its_sender_the_connection_and_nobody_else(
    daemon: PrivateDaemon, plain: Plain
) -> None:
    with Plain(daemon, client="flood") as flood:
        monitor = flood.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        monitor.rcvtimeo = 1000 * WAIT_S_MAX
        flood.socket.send_multipart([header("digits", SPEC, {}), bytes(PAYLOAD_BYTES_MAX + HEADER_BYTES_MAX + 1)])
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
        flood.socket.disable_monitor()
        monitor.close(linger=0)
    plain.answers([plain.infer()])


def test_a_request_without_hello_is_told_to_say_it(daemon: PrivateDaemon) -> None:
    with Plain(daemon, client=None) as rude:
        rude.infer()
        refusal = rude.receive()
        assert isinstance(refusal, Refusal)
        assert refusal.code == "hello_required"


def test_the_sdk_turns_refusals_into_its_errors(daemon: PrivateDaemon) -> None:
    with Client("a", endpoint=daemon.endpoint("a"), timeout_s=WAIT_S_MAX) as client:
        with pytest.raises(UnknownNetwork, match="digits"):
            client.infer("nosuch", [0.0])
        with pytest.raises(BadRequest, match=r"expects \(1, 8, 8\)"):
            client.infer("digits", np.zeros((8, 9), np.float32))
        with pytest.raises(BadRequest, match="latency_ms"):
            client.infer("digits", np.zeros((1, 8, 8), np.float32), latency_ms=math.nan)


# ---- bad bundles and profiles


def damage_hash(directory: Path) -> str:
    path = directory / "segment1.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return "segment1.onnx: its SHA-256 is"


def remove_file(directory: Path) -> str:
    (directory / "head2.onnx").unlink()
    return "head2.onnx is missing"


def link_file(directory: Path) -> str:
    (directory / "head0.onnx").rename(directory.parent / "elsewhere.onnx")
    (directory / "head0.onnx").symlink_to(directory.parent / "elsewhere.onnx")
    return "head0.onnx is a link"


def absolute_path(directory: Path) -> str:
    edit(directory, '"segment0.onnx"', f'"{directory.parent}/segment0.onnx"')
    return "network.toml"


def upward_path(directory: Path) -> str:
    edit(directory, '"segment0.onnx"', '"../segment0.onnx"')
    return "network.toml"


def add_pickle(directory: Path) -> str:
    (directory / "weights.pkl").write_bytes(b"\x80\x04K\x01.")
    return "weights.pkl: this kind of file can run code"


def unknown_key(directory: Path) -> str:
    edit(directory, "format = 1", "format = 1\nhook = 'run.py'")
    return "hook"


@pytest.mark.parametrize(
    "damage", [damage_hash, remove_file, link_file, absolute_path, upward_path, add_pickle, unknown_key]
)
def test_a_corrupt_bundle_is_refused_by_name_in_one_line(tmp_path: Path, damage: Any) -> None:
    bundle = digits_copy(tmp_path)
    words = damage(bundle)
    runtime = tmp_path / "run"
    ended = delen("serve", "--dev", "--network", f"{bundle}/", "--runtime-dir", str(runtime))
    assert ended.returncode == ExitCode.BAD_DATA
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert words in line
    assert str(bundle) in line
    assert not (runtime / "t").exists(), "no socket is made for what cannot be served"


def test_a_corrupt_profile_is_refused_by_name(tmp_path: Path) -> None:
    profile = tmp_path / "state" / "profiles" / "digits" / "damaged.json"
    profile.parent.mkdir(parents=True)
    profile.write_text('{"format": 1, "network": "digits"')
    places = ("--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state"))
    ended = delen("serve", "--dev", "--network", "digits", *places)
    assert ended.returncode == ExitCode.BAD_DATA
    (line,) = ended.stderr.splitlines()
    assert str(profile) in line
    assert "measure it again" in line or "delete" in line


def test_a_state_directory_that_cannot_be_written_is_no_reason_not_to_serve(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    with serving(tmp_path) as daemon:
        daemon.until_said("cannot")
        daemon.until_said(str(tmp_path / "state"))
        with Plain(daemon) as plain:
            plain.answers([plain.infer()])


def test_a_profile_may_be_required(tmp_path: Path) -> None:
    places = ("--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state"))
    ended = delen("serve", "--dev", "--network", "digits", "--profile", "require", *places)
    assert ended.returncode == ExitCode.UNAVAILABLE
    assert "delen profile digits" in ended.stderr


# ---- starting and ending


def test_a_second_daemon_gives_way_to_the_first(daemon: PrivateDaemon, plain: Plain) -> None:
    ended = delen("serve", "--dev", "--network", "digits", environ=daemon.environ)
    assert ended.returncode == ExitCode.ALREADY_RUNNING
    (line,) = ended.stderr.splitlines()
    assert str(daemon.runtime_dir) in line
    assert "--runtime-dir" in line
    plain.answers([plain.infer()])
    with Plain(daemon, "b") as newcomer:
        newcomer.answers([newcomer.infer()])


def test_no_daemon_is_said_at_once_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELEN_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Unreachable, match="delen serve"):
        Client("a")
    for command in (("ps",), ("networks",), ("infer", "digits", "--sample", "0")):
        ended = delen(*command)
        assert ended.returncode == ExitCode.UNAVAILABLE
        assert str(tmp_path) in ended.stderr
        assert "hint: is a daemon running? start one of your own with: delen serve --dev" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_told_to_stop_ends_clean(folder: Path, number: signal.Signals) -> None:
    with serving(folder) as daemon:
        worker, front = worker_of(daemon), psutil.Process(daemon.pid)
        with Plain(daemon) as plain:
            plain.answers([plain.infer()])
        front.send_signal(number)
        assert daemon.stop() == 0
        assert not [path for path in daemon.runtime_dir.rglob("*") if path.is_socket()]
        assert not worker.is_running()
        assert daemon.log().count("\n") == 2, "nothing but whom it admits and that it is ready: " + daemon.log()


def listens(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_daemon_told_to_stop_while_it_starts_ends_without_having_been_ready(tmp_path: Path) -> None:
    # Without a profile it measures for some seconds, long after it listens to signals.
    command = [sys.executable, "-m", "delen", "serve", "--dev", "--network", "digits"]
    places = ["--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen([*command, *places], stderr=subprocess.PIPE, text=True) as started:
        front = psutil.Process(started.pid)
        while not (children := front.children()) or not listens(started.pid, signal.SIGTERM):
            assert started.poll() is None
        started.send_signal(signal.SIGTERM)
        _, said = started.communicate(timeout=WAIT_S_MAX)
    assert (started.returncode, said) == (0, "")
    assert not children[0].is_running()
    assert not (tmp_path / "run" / "t").exists()
