"""What the blocking and the asyncio client share: settings, checks, and messages made from what the caller hands in.

Role: the base of both, around one `connection.Connection`. Does not: send, read or wait; its heirs do.
"""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import zmq
from msgspec.structs import replace

from .calls import Call
from .connection import CALLS_MAX, Connection
from .endpoints import Located
from .errors import BadReply, BadRequest, DelenError, QueueFull, UnknownNetwork, Unreachable
from .info import NetworkInfo
from .inputs import BoundArguments, InferArguments, InputLike, bounds_of, input_tensor
from .places import name_fault
from .wire import VERSION, Infer, StatsReply, TensorSpec

if TYPE_CHECKING:
    from .servers import Servers

# A connection that breaks is tried again this soon, then ever less often. ZeroMQ's own default is 100 ms flat.
RECONNECT_MS = 10
RECONNECT_MS_MAX = 1_000
MESSAGES_QUEUED_MAX = 4_096

_Socket = TypeVar("_Socket", bound="zmq.Socket[Any]")


def now_us() -> int:
    """The clients' one clock: monotonic microseconds."""
    return time.monotonic_ns() // 1000


def whole(pages: Sequence[StatsReply]) -> StatsReply:
    """The rows of all pages in one reply."""
    tenants = tuple(row for page in pages for row in page.tenants)
    networks = tuple(row for page in pages for row in page.networks)
    return replace(pages[0], tenants=tenants, networks=networks, next=0)


class Asking:
    """Settings and state of one client; see `client.Client` for the arguments."""

    def __init__(self, located: Located, *, client: str | None, timeout_s: float, bounds: BoundArguments) -> None:
        self.tenant, self.endpoint = located.tenant, located.endpoint
        self._located = located
        self.client = client or os.urandom(6).hex()
        fault = name_fault("client", self.client)
        if fault:
            raise BadRequest(fault, code="malformed")
        self.timeout_s = timeout_s
        _timeout_us(timeout_s)
        self._connection = Connection(
            endpoint=self.endpoint, client=self.client, bounds=bounds_of(bounds), nonce=os.urandom(8)
        )
        self._servers = _servers(located)
        self._pid = os.getpid()
        self._closed = False

    def __repr__(self) -> str:
        pending = len(self._connection)
        return f"<{type(self).__name__} {self.tenant}/{self.client} at {self.endpoint}, {pending} pending>"

    def _connect(self, socket: _Socket) -> _Socket:
        socket.setsockopt(zmq.LINGER, 0)
        # Send only on a live connection: what waits here instead still knows how much of its bound is left.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
        socket.setsockopt(zmq.SNDHWM, MESSAGES_QUEUED_MAX)
        socket.setsockopt(zmq.RCVHWM, MESSAGES_QUEUED_MAX)
        if self._located.pair is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._located.server_key.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._located.pair.public.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._located.pair.secret.encode())
        try:
            socket.connect(self.endpoint)
        except (zmq.ZMQError, UnicodeEncodeError) as error:
            socket.close(linger=0)
            hint = "expected ipc:///path or tcp://host:port"
            fault = f"cannot connect to {self.endpoint}: {error}"
            raise Unreachable(fault, endpoint=self.endpoint, hint=hint) from None
        return socket

    def _tick(self, now: int, socket: zmq.Socket[Any]) -> None:
        """What is due at the connection's `wake_at_us`; and where nobody answers, ask at the next address."""
        connection = self._connection
        connection.tick(now)
        if self._servers is None:
            return
        if self._servers.turn(now, connection.silent_since_us(), welcome=connection.welcome is not None):
            socket.disconnect(self.endpoint)
            self.endpoint, server_key = self._servers.current
            connection.endpoint = self.endpoint
            socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
            socket.connect(self.endpoint)

    def _call(self, kind: type[Any], *fields: Any) -> Call:
        now = now_us()
        message = kind(VERSION, self._connection.new_id(), *fields)
        return Call(message=message, tensors=(), created_us=now, give_up_us=now + _timeout_us(self.timeout_s))

    def _infer_call(
        self, info: NetworkInfo, x: InputLike, bounds: InferArguments, timeout_s: float | None, *, keep: bool
    ) -> Call:
        """A call for one answer; with `keep` the input is copied, so that its owner may change it meanwhile."""
        now = now_us()
        give_up_us = now + _timeout_us(self.timeout_s if timeout_s is None else timeout_s)
        tensor = input_tensor(info, x)
        welcome = self._connection.welcome
        if welcome is not None and tensor.nbytes > welcome.payload_bytes_max:
            # The daemon's socket would drop the whole connection over it.
            fault = f"an input of {tensor.nbytes} bytes; the daemon takes at most {welcome.payload_bytes_max}"
            raise BadRequest(fault, code="too_large")
        spec, traceparent = TensorSpec(info.dtype, info.shape), bounds.pop("traceparent", "")
        message = Infer(VERSION, self._connection.new_id(), info.name, (spec,), bounds_of(bounds), traceparent)
        data = tensor.tobytes() if keep or not tensor.size else tensor.data.cast("B")
        return Call(message=message, tensors=(data,), created_us=now, give_up_us=give_up_us, info=info)

    def _known(self, network: str) -> NetworkInfo:
        info = self._connection.networks.get(network)
        if info is None:
            names = ", ".join(sorted(self._connection.networks)) or "none"
            fault = f"no network {network!r} for tenant {self.tenant!r}; those it may use: {names}"
            raise UnknownNetwork(fault, code="unknown_network", hint="`delen networks` lists them")
        return info

    def _forked(self) -> bool:
        return os.getpid() != self._pid

    def _check_process(self) -> None:
        if self._forked():
            fault = f"this client was made in process {self._pid} and cannot be used after a fork in {os.getpid()}"
            raise DelenError(fault, code="forked", hint="make a new client in each process")

    def _check_open(self) -> None:
        if self._closed:
            raise DelenError("this client is closed", code="closed", hint="make a new one")
        if len(self._connection) >= CALLS_MAX:
            raise QueueFull(f"{CALLS_MAX} requests of this client wait for their answers", code="client_full")

    def _no_welcome(self) -> BadReply:
        return BadReply("the daemon answers but has not welcomed this client")


def _servers(located: Located) -> Servers | None:
    """None where there is but one."""
    if not located.servers:
        return None
    from .keys import Server
    from .servers import Servers

    return Servers([Server(located.endpoint, located.server_key), *located.servers])


def class_index(label: SupportsIndex) -> int:
    """A label as the wire takes it: numpy's integers are as good as Python's. Raises BadRequest."""
    try:
        index = operator.index(label)
    except TypeError:
        index = -1
    if isinstance(label, bool) or not 0 <= index < 2**63:
        raise BadRequest(f"label is {label!r:.60}; expected the index of a class, an integer from 0", code="label")
    return index


def _timeout_us(timeout_s: float) -> int:
    if not (math.isfinite(timeout_s) and 0 < timeout_s <= 1e9):
        raise BadRequest(f"timeout_s is {timeout_s}; expected seconds above 0 and at most 1e9", code="bounds")
    return int(timeout_s * 1e6)
