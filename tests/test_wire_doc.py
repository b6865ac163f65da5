"""WIRE.md is true and enough: it names every field in its order, its bytes are real, and a client made from it works.

The plain client below knows pyzmq, msgpack and that page; nothing of the SDK. It asks the daemon that tests of clients
use, and the real one.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import zmq

from delen.clients import adaptation, bounds, errors, info, places, wire
from delen.tests import daemon_fixture
from delen.tests.fake_daemon import FakeDaemon, serving

msgpack = pytest.importorskip("msgpack", reason="the plain client speaks msgpack by its own package")

PAGE = (Path(__file__).parents[1] / "clients" / "WIRE.md").read_text(encoding="utf-8")
# What each table row of a message or map starts with, by the struct it describes.
MAPS = {
    "bounds map": bounds.Bounds,
    "condition set": bounds.ConditionSet,
    "condition": bounds.Condition,
    "offer map": wire.Offer,
    "proof map": wire.Proof,
    "network map": info.NetworkInfo,
    "preprocessing map": info.Preprocessing,
    "exit map": info.ExitInfo,
    "tenant map": info.TenantStats,
    "certifiable map": info.Certifiable,
    "drift map": info.Drift,
    "meter map": info.MeterInfo,
    "device energy map": info.DeviceEnergy,
    "adaptation map": adaptation.Adaptation,
    "standing map": adaptation.Adapting,
    "histogram map": info.Histogram,
    "network stats map": info.NetworkStats,
    "request trace map": info.RequestTrace,
}


def messages() -> dict[str, tuple[str, ...]]:
    """Every message's name and own fields, as the codec has them."""
    kinds = [*get_args(wire.Request), *get_args(wire.Reply)]
    return {kind.__struct_config__.tag: kind.__struct_fields__[2:] for kind in kinds}


def rows(section: str) -> list[list[str]]:
    """The cells of the tables in a part of the page."""
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def documented_messages() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for heading in ("## From client to daemon", "## From daemon to client"):
        section = PAGE.split(heading)[1].split("\n## ")[0]
        for name, field, *_ in rows(section)[1:]:
            if name:
                found[name.strip("`")] = []
            if field:
                found[list(found)[-1]].append(field)
    return {name: tuple(fields) for name, fields in found.items()}


def test_every_message_is_there_with_its_fields_in_order() -> None:
    assert documented_messages() == messages()


@pytest.mark.parametrize("title", MAPS)
def test_every_map_is_there_with_its_keys_in_order(title: str) -> None:
    section = PAGE.split(f"**{title}**" if f"**{title}**" in PAGE else f"**{title}.**")[1].split("\n**")[0]
    keys = [key for key, *_ in rows(section.split("\n## ")[0])[1:]]
    assert tuple(keys) == MAPS[title].__struct_fields__


def test_every_word_a_field_may_hold_is_there() -> None:
    for words in (wire.Stop, wire.Certificate, info.EnergySource, bounds.Metric, bounds.Operator, bounds.Objective):
        for word in get_args(words):
            assert f"`{word}`" in PAGE
    for dtype in wire.DTYPES:
        assert f"`{dtype}`" in PAGE


def test_every_code_the_sdk_knows_is_there() -> None:
    known = {*errors._REFUSALS, *errors._FAILURES, "infeasible", "queue_full", "rate", "quota", "hello_required"}
    table = PAGE.split("## Codes")[1].split("\n## ")[0]
    assert {code for code in known if f"`{code}`" not in table} == set()


def test_the_limits_are_those_in_force() -> None:
    limits = PAGE.split("Limits:")[1].split("\n")[0]
    assert f"header {wire.HEADER_BYTES_MAX // 1024} KiB" in limits
    assert f"id {wire.ID_BYTES_MAX} bytes" in limits
    assert f"names {places.NAME_BYTES_MAX} bytes" in limits
    assert f"tensor rank {wire.RANK_MAX}" in limits
    assert f"{bounds.CONDITION_COUNT_MAX} conditions" in limits


def test_the_bytes_shown_are_what_the_page_says() -> None:
    shown = [bytes.fromhex("".join(block.split())) for block in re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)]
    hello, welcome, asked, x, answered, logits, refused = shown
    assert wire.decode_request([hello], 100) == wire.Hello(1, b"\x01", "cam-1", bounds.Bounds(latency_ms=50.0))
    assert isinstance(wire.decode_reply([welcome]), wire.Welcome)
    infer = wire.decode_request([asked, x], 100)
    answer = wire.decode_reply([answered, logits])
    assert isinstance(infer, wire.Infer)
    assert isinstance(answer, wire.Answer)
    assert wire.array(infer.tensors[0], x).tolist() == [[[0.0, 1.0], [0.5, -1.0]]]
    assert (answer.label, answer.exit, wire.array(answer.tensors[0], logits).tolist()) == (1, 0, [0.25, 2.0, -1.0])
    refusal = wire.decode_reply([refused])
    assert isinstance(refusal, wire.Refusal)
    assert refusal.offer == wire.Offer(latency_ms=1.5)
    for message, frame in ((infer, asked), (answer, answered), (refusal, refused)):
        assert bytes(wire.encode(message)[0]) == frame


class PlainClient:
    """A client as WIRE.md tells it, on a DEALER or a REQ."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER) -> None:
        self.context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.connect(endpoint)
        self.fields = documented_messages()
        # Random, since the ids of all of a tenant's clients share one space.
        self.prefix = os.urandom(8)
        self.name = f"plain-{self.prefix.hex()}"
        self.last_id = 0

    def send(self, name: str, *fields: Any, tensor: bytes | None = None, request_id: bytes = b"") -> bytes:
        self.last_id += 1
        request_id = request_id or self.prefix + struct.pack(">Q", self.last_id)
        header = msgpack.packb([name, 1, request_id, *fields], use_bin_type=True)
        self.socket.send_multipart([header] if tensor is None else [header, tensor])
        return request_id

    def receive(self) -> dict[str, Any]:
        header, *tensors = self.socket.recv_multipart()
        name, version, request_id, *fields = msgpack.unpackb(header, raw=False)
        assert version == 1
        return {"name": name, "id": request_id, "data": tensors, **dict(zip(self.fields[name], fields, strict=False))}

    def ask(self, name: str, *fields: Any, tensor: bytes | None = None) -> dict[str, Any]:
        request_id = self.send(name, *fields, tensor=tensor)
        reply = self.receive()
        assert reply["id"] == request_id
        return reply

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


def first_network(client: PlainClient) -> tuple[dict[str, Any], bytes]:
    """The first network of float32, and an input of zeros for it."""
    for network in client.ask("networks")["networks"]:
        if network["dtype"] == "float32":
            count = 1
            for side in network["shape"]:
                count *= side
            return network, struct.pack(f"<{count}f", *[0.0] * count)
    pytest.fail("the daemon serves no network of float32")


@pytest.fixture(scope="module")
def real_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    with daemon_fixture.serving(tmp_path_factory.getbasetemp()) as daemon:
        yield daemon.endpoint("a")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.slow)])
def endpoint(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("real_endpoint")
        return
    with serving(FakeDaemon(), tmp_path) as endpoint:
        yield endpoint


@pytest.fixture(params=[zmq.DEALER, zmq.REQ], ids=["dealer", "req"])
def client(endpoint: str, request: pytest.FixtureRequest) -> Iterator[PlainClient]:
    client = PlainClient(endpoint, request.param)
    yield client
    client.close()


@pytest.mark.e2e
def test_a_plain_client_asks_and_is_answered(client: PlainClient) -> None:
    assert client.ask("hello", client.name, {"latency_ms": 1000.0})["bounds"] == {"latency_ms": 1000.0}
    network, x = first_network(client)
    reply = client.ask("infer", network["name"], [["float32", network["shape"]]], {"latency_ms": 900.0}, tensor=x)
    assert reply["name"] == "answer"
    (dtype, shape) = reply["tensors"][0]
    assert dtype == "float32"
    logits = struct.unpack(f"<{shape[0]}f", reply["data"][0])
    assert logits[reply["label"]] == max(logits)
    assert 0 <= reply["exit"] < len(network["exits"])
    assert reply["energy_source"] in ("measured", "modelled", "unknown")
    assert client.ask("bounds", {"accuracy": 0.5})["bounds"] == {"accuracy": 0.5}
    assert client.ask("ping")["name"] == "pong"
    assert client.ask("stats")["name"] == "stats_reply"


@pytest.mark.e2e
def test_a_plain_client_is_told_what_it_does_wrong(client: PlainClient) -> None:
    early = client.ask("infer", "toy", [["float32", [1]]], {}, tensor=b"\0" * 4)
    assert (early["name"], early["code"]) == ("refusal", "hello_required")
    client.ask("hello", client.name)
    wrong: list[tuple[list[Any], bytes | None, str]] = [
        (["toy", [["float32", [2]]], {}], b"\0" * 4, "shape"),
        (["toy", [["float99", [1]]], {}], b"\0" * 4, "dtype"),
        (["toy", [["float32", [1]]], {"latency_ms": -1.0}], b"\0" * 4, "bounds"),
        (["toy", [["float32", [1]]], {"speed": 1.0}], b"\0" * 4, "malformed"),
        (["toy"], None, "malformed"),
    ]
    for fields, tensor, code in wrong:
        refusal = client.ask("infer", *fields, tensor=tensor)
        assert (refusal["name"], refusal["code"]) == ("refusal", code)
        assert refusal["message"]


@pytest.mark.e2e
def test_a_repeated_request_is_answered_and_another_one_of_its_id_is_not(client: PlainClient) -> None:
    client.ask("hello", client.name)
    network, x = first_network(client)
    fields: list[Any] = [network["name"], [["float32", network["shape"]]], {}]
    first = client.ask("infer", *fields, tensor=x)
    client.send("infer", *fields, tensor=x, request_id=first["id"])
    again = client.receive()
    assert (again["name"], again["data"]) == ("answer", first["data"])
    client.send("fetch", request_id=first["id"])
    assert client.receive()["data"] == first["data"]
    client.send("infer", *fields[:2], {"latency_ms": 5.0}, tensor=x, request_id=first["id"])
    assert client.receive()["code"] == "id_reused"
    assert client.ask("fetch")["code"] == "unknown_id"
