"""The messages that clients and daemon exchange, and their one codec. WIRE.md tells the same to other languages.

Role: frozen msgspec structs, `encode` to ZeroMQ frames and `decode` back, with every limit checked. A message is
`[msgpack header][tensor 0][tensor 1]...`; the header is an array that starts with the message's name and the protocol
version. Flow: client `encode` -> DEALER ~ ROUTER -> daemon `decode`, and back the same way.

Does not: open sockets, read clocks, know networks. Pure, and importable by every room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np

from .adaptation import Adaptation, Adapting, adaptation_fault
from .bounds import Bounds, Conditions, Record, bounds_fault, conditions_fault
from .info import DeviceEnergy, EnergySource, MeterInfo, NetworkInfo, NetworkStats, RequestTrace, TenantStats
from .info import Offer as Offer
from .info import Proof as Proof
from .wire_fault import ID_BYTES_MAX as ID_BYTES_MAX
from .wire_fault import WireError as WireError
from .wire_fault import explained

if TYPE_CHECKING:
    import numpy.typing as npt  # Costs every client 5 ms to import.

VERSION = 1
HEADER_BYTES_MAX = 64 * 1024
TENSORS_MAX = 1
# An answer's tensor is one number per class, so this is ample; a client reads no more.
ANSWER_BYTES_MAX = 1024 * 1024
RANK_MAX = 8
SIDE_MAX = 2**31
# What may cross the wire: fixed-size little-endian numbers only, so no object can be smuggled in.
DTYPES = {"float32": 4, "float16": 2, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}

Stop: TypeAlias = Literal["gate", "condition", "deadline", "energy", "fairness", "bound", "objective", "last_exit"]
Certificate: TypeAlias = Literal["certified", "uncertified", "withdrawn", "none"]
Array: TypeAlias = "npt.NDArray[Any]"


class TensorSpec(Record, frozen=True, array_like=True):
    """dtype by numpy's name, and shape, of one raw little-endian row-major frame."""

    dtype: str
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]


class _Message(Record, frozen=True, array_like=True, omit_defaults=False):
    """Header fields every message starts with: the protocol version, and the request it belongs to."""

    version: int
    id: bytes


# ---- from client to daemon


class Hello(_Message, frozen=True, tag="hello"):
    """Opens or resumes the session (tenant, client); its default bounds survive reconnecting."""

    client: str
    bounds: Bounds = Bounds()


class Networks(_Message, frozen=True, tag="networks"):
    """Which networks may I use, and what do their exits cost here?"""


class Infer(_Message, frozen=True, tag="infer"):
    """One request: one input tensor follows. `bounds` override the session's, field by field.

    `traceparent`: the caller's place in a distributed trace, as W3C Trace Context writes it; anything else of at most
    512 characters is ignored.
    """

    network: str
    tensors: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=64)]
    bounds: Bounds = Bounds()
    traceparent: Annotated[str, msgspec.Meta(max_length=512)] = ""


class Fetch(_Message, frozen=True, tag="fetch"):
    """Send me the end of request `id` again, or once it ends; nothing is run."""


class Cancel(_Message, frozen=True, tag="cancel"):
    """Forget request `id` if it has not ended: it ends with an error `cancelled`."""


class SetBounds(_Message, frozen=True, tag="bounds"):
    """New default bounds of this session, in force for every request read after the acknowledgement."""

    bounds: Bounds


class SetConditions(_Message, frozen=True, tag="conditions"):
    """Default conditions of this session for one network, in Dělen's form; None takes them back."""

    network: str
    conditions: Conditions | None


class Stats(_Message, frozen=True, tag="stats"):
    """How am I doing? Who `sees_all`, as all do in development mode, is told of everybody, others of themselves.

    `after`: of the reply's rows, those behind so many; a reply says where the next one goes on.
    """

    after: int = 0


class Feedback(_Message, frozen=True, tag="feedback"):
    """The right label of the answer to request `answered`, while its window is open; never changes that answer."""

    answered: bytes
    label: int


class Ping(_Message, frozen=True, tag="ping"):
    """Are you there?"""


class Traces(_Message, frozen=True, tag="traces"):
    """How did the last requests go that have ended? Of `tenant`, empty: mine; those with numbers above `after`."""

    tenant: str = ""
    after: int = 0


class Manage(_Message, frozen=True, tag="manage"):
    """Serve other networks: `action` is add, swap or remove. Only for tenants that may; answered once it is done."""

    action: str
    network: str


class Adapt(_Message, frozen=True, tag="adapt"):
    """This adaptation for all my requests from now on, whatever session they come by; None: only tell me how it is."""

    adaptation: Adaptation | None = None


# ---- from daemon to client


class Welcome(_Message, frozen=True, tag="welcome"):
    """Answers hello: who you are, whose process this is, and the limits that apply."""

    tenant: str
    boot: str
    answer_window_ms: int
    payload_bytes_max: int
    queued_max: int
    bounds: Bounds


class NetworkList(_Message, frozen=True, tag="network_list"):
    networks: tuple[NetworkInfo, ...]


class BoundsSet(_Message, frozen=True, tag="bounds_set"):
    """The session's bounds as they now stand."""

    bounds: Bounds


class StatsReply(_Message, frozen=True, tag="stats_reply"):
    """Rows of tenants and, for who sees all, of networks. `next`: ask again with this as `after`; 0: that was all.

    `spare`: whether an engine stands by (`ready`) or is about to (`starting`); empty where there is to be none.
    """

    uptime_us: int
    queued: int
    worker: str
    worker_restarts: int
    tenants: tuple[TenantStats, ...]
    networks: tuple[NetworkStats, ...] = ()
    next: int = 0
    spare: str = ""
    meter: MeterInfo = MeterInfo()
    energy: DeviceEnergy = DeviceEnergy()


class Noted(_Message, frozen=True, tag="noted"):
    """Answers feedback. `withdrawn`: whether labels or audits have withdrawn this tenant's certificates for it."""

    withdrawn: bool


class Pong(_Message, frozen=True, tag="pong"):
    pass


class Managed(_Message, frozen=True, tag="managed"):
    """Answers manage: the version served from now on; empty: none any more."""

    network: str
    network_version: str


class TraceList(_Message, frozen=True, tag="trace_list"):
    """Requests in the order they ended. `next`: ask again with this as `after`, at once where there are `more`.

    `now_us`: the clock that `arrival_us` is told by. `lost`: how many above `after` were not kept.
    """

    now_us: int
    next: int
    more: bool
    lost: int
    requests: tuple[RequestTrace, ...]


class Adapted(_Message, frozen=True, tag="adapted"):
    """Answers adapt: what holds for this tenant now, and how it stands."""

    adaptation: Adaptation
    standing: Adapting


class Answer(_Message, frozen=True, tag="answer"):
    """What was delivered. One tensor follows: the logits of `exit`, shape (classes,), float32.

    `confidence`: calibrated probability of the label. `expected_accuracy`: of answers given under this plan.
    `batches`: batch size at each segment run. `energy_mj`: what it is charged, None where unknown (never 0 for that).
    `certificate`: `withdrawn` where it was, because answers were wrong more often than it allows; `proof`: what it
    rests on. `broken`: names of bounds that did not hold. `stop`: why it stopped where it did. `total_us`: from the
    daemon's reading of the request to handing over the answer. `traceparent`: the daemon's own place in the trace that
    the request said it belongs to.
    """

    network: str
    network_version: str
    tensors: tuple[TensorSpec, ...]
    label: int
    exit: int
    confidence: float
    expected_accuracy: float
    certificate: Certificate
    queue_us: int
    compute_us: int
    total_us: int
    batches: tuple[int, ...]
    energy_mj: float | None
    energy_source: EnergySource
    broken: tuple[str, ...]
    stop: Stop
    replayed: bool = False
    proof: Proof | None = None
    traceparent: str = ""


class Refusal(_Message, frozen=True, tag="refusal"):
    """Not accepted, nothing was run. `code` is stable; `message` says what was wrong and what to do."""

    code: str
    message: str
    offer: Offer | None = None


class Failure(_Message, frozen=True, tag="error"):
    """Accepted, and could not be answered."""

    code: str
    message: str


Request: TypeAlias = (
    Hello | Networks | Infer | Fetch | Cancel | SetBounds | SetConditions | Stats | Feedback | Ping | Traces | Manage
) | Adapt
Reply: TypeAlias = (
    Welcome | NetworkList | BoundsSet | StatsReply | Noted | Pong | Answer | Refusal | Failure | TraceList | Managed
) | Adapted
Tensor: TypeAlias = "bytes | memoryview"
Frames: TypeAlias = Sequence[Tensor]

_NAMES = {np.dtype(name): name for name in DTYPES}
# Looked up for every tensor: numpy takes a microsecond to make one from its name.
LITTLE_ENDIAN = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}
_encoder = msgspec.msgpack.Encoder()
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def encode(message: Request | Reply, tensors: Sequence[Array | bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """Frames of one message. Arrays are sent as they lie in memory; one that is not contiguous is copied first."""
    frames: list[bytes | memoryview] = [_encoder.encode(message)]
    frames += [np.ascontiguousarray(each).data.cast("B") if isinstance(each, np.ndarray) else each for each in tensors]
    return frames


def decode_request(frames: Frames, payload_bytes_max: int) -> Request:
    """Read a client's message; the tensor frames stay where they are, checked against the header.

    Raises:
        WireError: `malformed`, `version`, `too_large`, `shape` or `bounds`, with the request's id where it was legible.
    """
    message: Request = _decode(frames, _decode_request)
    _check_frames(message, frames, payload_bytes_max)
    fault = None
    if isinstance(message, (Infer, Hello, SetBounds)):
        fault = bounds_fault(message.bounds)
    elif isinstance(message, SetConditions):
        fault = conditions_fault(message.conditions)
    elif isinstance(message, Adapt) and message.adaptation is not None:
        fault = adaptation_fault(message.adaptation)
    if fault:
        raise WireError("bounds", fault, message.id)
    return message


def decode_reply(frames: Frames) -> Reply:
    """Read a daemon's message, its answer's tensor checked against the header. Raises WireError as `decode_request`."""
    reply: Reply = _decode(frames, _decode_reply)
    _check_frames(reply, frames, ANSWER_BYTES_MAX)
    return reply


def array(spec: TensorSpec, frame: bytes | memoryview) -> Array:
    """View a checked tensor frame as a numpy array, read-only where the frame is, without a copy."""
    return np.frombuffer(frame, LITTLE_ENDIAN[spec.dtype]).reshape(spec.shape)


def tensor_spec(tensor: Array) -> TensorSpec:
    # numpy builds a dtype's name anew each time; this is on every request's path.
    return TensorSpec(_NAMES.get(tensor.dtype) or tensor.dtype.name, tensor.shape)


def _decode(frames: Frames, decoder: Any) -> Any:
    if not frames:
        raise WireError("malformed", "an empty message; expected a header frame")
    header = frames[0]
    if len(header) > HEADER_BYTES_MAX:
        most = f"at most {HEADER_BYTES_MAX} are allowed (header_bytes_max)"
        raise WireError("malformed", f"a header of {len(header)} bytes; {most}")
    try:
        message = decoder(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explained(header, error, VERSION) from None
    request_id = message.id if 0 < len(message.id) <= ID_BYTES_MAX else b""
    if message.version != VERSION:
        raise WireError("version", f"protocol version {message.version}; this side speaks {VERSION}", request_id)
    if not request_id:
        raise WireError("malformed", f"an id of {len(message.id)} bytes; expected 1 to {ID_BYTES_MAX}")
    return message


def _check_frames(message: Request | Reply, frames: Frames, bytes_max: int) -> None:
    count = len(frames) - 1
    if not isinstance(message, (Infer, Answer)):
        if count:
            raise WireError("malformed", f"{count} tensor frames follow a message that has none", message.id)
        return
    specs = message.tensors
    if len(specs) != count or not 0 < count <= TENSORS_MAX:
        said = f"{len(specs)} tensors described and {count} sent; expected exactly {TENSORS_MAX} of each (tensors_max)"
        raise WireError("malformed", said, message.id)
    limit = "payload_bytes_max" if isinstance(message, Infer) else "answer_bytes_max"
    for index, spec in enumerate(specs, start=1):
        fault = _tensor_fault(spec, len(frames[index]), bytes_max, limit)
        if fault:
            raise WireError(*fault, message.id)


def _tensor_fault(spec: TensorSpec, size: int, bytes_max: int, limit: str) -> tuple[str, str] | None:
    """Code and text of what is wrong with a frame of `size` bytes so described; `bytes_max` is called `limit`."""
    width, shape = DTYPES.get(spec.dtype), spec.shape
    if width is None:
        return "dtype", f"dtype {spec.dtype!r:.40}; expected one of {', '.join(sorted(DTYPES))}"
    if len(shape) > RANK_MAX or (shape and not 0 <= min(shape) <= max(shape) <= SIDE_MAX):
        return "shape", f"shape {shape!s:.80}; expected at most {RANK_MAX} sides of 0 to {SIDE_MAX}"
    if size > bytes_max:
        return "too_large", f"a tensor of {size} bytes; at most {bytes_max} are allowed ({limit})"
    wanted = math.prod(shape) * width
    if wanted != size:
        return "shape", f"{spec.dtype}{list(shape)} needs {wanted} bytes, the frame has {size}"
    return None
