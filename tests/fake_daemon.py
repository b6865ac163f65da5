"""A daemon of a few lines, built from wire.py alone: what the clients' tests talk to.

Role: `FakeDaemon.reply` is the protocol without sockets, as plain as it can be; `serving` puts it behind a ROUTER in a
thread, `main` in a process. It answers every inference at once with the input's first numbers as logits.
Does not: schedule, bound or measure anything.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zmq

from delen.clients.bounds import Bounds, merge
from delen.clients.info import ExitInfo, NetworkInfo, Preprocessing
from delen.clients.places import endpoint_path
from delen.clients.wire import (
    VERSION,
    Answer,
    BoundsSet,
    Cancel,
    Failure,
    Feedback,
    Fetch,
    Frames,
    Hello,
    Infer,
    NetworkList,
    Networks,
    Noted,
    Ping,
    Pong,
    Refusal,
    Reply,
    SetBounds,
    SetConditions,
    Stats,
    StatsReply,
    TensorSpec,
    TraceList,
    Traces,
    Welcome,
    WireError,
    decode_request,
    encode,
)

PAYLOAD_BYTES_MAX = 1_000_000
TOY = NetworkInfo(
    name="toy",
    version="1",
    classes=("cat", "dog", "owl"),
    dtype="float32",
    shape=(1, 2, 2),
    preprocessing=Preprocessing(colour="gray", scale=1 / 255, mean=(0.5,), std=(0.25,)),
    exits=(
        ExitInfo(0, 0.8, 100, 200, 1.0, "modelled", False, 0.02),
        ExitInfo(1, 0.9, 300, 400, 2.0, "modelled", False, None),
    ),
    batch_max=8,
    engine="fake",
    profile="none",
)
PHOTO = NetworkInfo(
    name="photo",
    version="1",
    classes=(),
    dtype="float32",
    shape=(3, 224, 224),
    preprocessing=Preprocessing(colour="rgb"),
    exits=TOY.exits,
    batch_max=8,
    engine="fake",
    profile="none",
)


class FakeDaemon:
    """The protocol's plain side. Tests set the attributes to make it behave otherwise.

    `silent`: what it takes and never answers. `refuse`, `fail`: how it ends every inference instead of answering.
    `log`: every message it read, in order; `runs`: ids it ran.
    """

    def __init__(self, *, boot: str = "boot-1", strict: bool = True) -> None:
        self.boot = boot
        self.strict = strict
        self.silent: tuple[type, ...] = ()
        self.refuse: Refusal | None = None
        self.fail: Failure | None = None
        self.log: list[object] = []
        self.runs: list[bytes] = []
        self.greeted: set[bytes] = set()
        self.bounds: dict[bytes, Bounds] = {}
        self.asked: dict[bytes, Infer] = {}
        self.kept: dict[bytes, list[bytes | memoryview]] = {}

    def restart(self) -> None:
        """Forget everything, as a new process would."""
        self.boot += "-again"
        for memory in (self.greeted, self.bounds, self.kept, self.asked):
            memory.clear()

    def reply(self, peer: bytes, frames: Frames) -> list[bytes | memoryview] | None:
        """The frames to answer with, None for none."""
        try:
            message = decode_request(frames, PAYLOAD_BYTES_MAX)
        except WireError as error:
            return encode(Refusal(VERSION, error.request_id or b"\0", error.code, str(error)))
        self.log.append(message)
        if isinstance(message, self.silent):
            return None
        if isinstance(message, Hello):
            self.greeted.add(peer)
            bounds = self.bounds[peer] = merge(self.bounds.get(peer, Bounds()), message.bounds)
            return encode(Welcome(VERSION, message.id, "t", self.boot, 60_000, PAYLOAD_BYTES_MAX, 64, bounds))
        if self.strict and peer not in self.greeted:
            return encode(Refusal(VERSION, message.id, "hello_required", "say hello first"))
        if isinstance(message, Infer):
            return self._infer(peer, message, frames)
        reply = self._control(peer, message)
        return reply if reply is None or isinstance(reply, list) else encode(reply)

    def _control(self, peer: bytes, message: object) -> Reply | list[bytes | memoryview] | None:
        if isinstance(message, Networks):
            return NetworkList(VERSION, message.id, (TOY, PHOTO))
        if isinstance(message, SetBounds):
            self.bounds[peer] = message.bounds
            return BoundsSet(VERSION, message.id, self.bounds[peer])
        if isinstance(message, SetConditions):
            return BoundsSet(VERSION, message.id, self.bounds[peer])
        if isinstance(message, Feedback):
            return Noted(VERSION, message.id, message.label == 2)
        if isinstance(message, Ping):
            return Pong(VERSION, message.id)
        if isinstance(message, Stats):
            return StatsReply(VERSION, message.id, 1, 0, "running", 0, ())
        if isinstance(message, Traces):
            return TraceList(VERSION, message.id, 1, message.after, False, 0, ())
        if isinstance(message, Fetch):
            unknown = Refusal(VERSION, message.id, "unknown_id", "no such request, or its answer was dropped")
            return self.kept.get(message.id, encode(unknown))
        assert isinstance(message, Cancel)
        return None

    def _infer(self, peer: bytes, message: Infer, frames: Frames) -> list[bytes | memoryview]:
        if message.id in self.kept:
            if self.asked[message.id] != message:
                return encode(Refusal(VERSION, message.id, "id_reused", "this id was another request's"))
            return self.kept[message.id]
        if self.refuse or self.fail:
            end = self.refuse or self.fail
            assert end is not None
            return encode(type(end)(VERSION, message.id, *(getattr(end, f) for f in end.__struct_fields__[2:])))
        self.runs.append(message.id)
        self.asked[message.id] = message
        logits = np.frombuffer(frames[1], np.float32)[:3].copy()
        answer = Answer(
            version=VERSION,
            id=message.id,
            network=message.network,
            network_version="1",
            tensors=(TensorSpec("float32", (3,)),),
            label=int(logits.argmax()),
            exit=1,
            confidence=0.75,
            expected_accuracy=0.9,
            certificate="uncertified",
            queue_us=1,
            compute_us=2,
            total_us=3,
            batches=(1, 1),
            energy_mj=2.0,
            energy_source="modelled",
            broken=(),
            stop="last_exit",
        )
        self.kept[message.id] = encode(answer, (logits,))
        if len(self.kept) > 4096:
            del self.kept[next(iter(self.kept))]
        return self.kept[message.id]


def serve(daemon: FakeDaemon, router: zmq.Socket[bytes], stop: zmq.Socket[bytes] | None = None) -> None:
    """Answer what comes on `router` until something comes on `stop`."""
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    if stop is not None:
        poller.register(stop, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if stop is not None and stop in ready:
            return
        peer, *frames = router.recv_multipart()
        # A REQ puts an empty frame in front and wants it back.
        delimiter, frames = (frames[:1], frames[1:]) if frames[:1] == [b""] else ([], frames)
        reply = daemon.reply(peer, frames)
        if reply is not None:
            router.send_multipart([peer, *delimiter, *reply])


@contextlib.contextmanager
def serving(daemon: FakeDaemon, directory: Path, tenant: str = "t") -> Iterator[str]:
    """`daemon` behind a ROUTER on a tenant's own socket under `directory`, in a thread; gives the endpoint."""
    path = endpoint_path(directory, tenant)
    path.parent.mkdir(parents=True, exist_ok=True)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.bind(f"ipc://{path}")
    near, far = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    far.bind("inproc://stop")
    near.connect("inproc://stop")
    thread = threading.Thread(target=serve, args=(daemon, router, far))
    thread.start()
    try:
        yield f"ipc://{path}"
    finally:
        near.send(b"")
        thread.join()
        for socket in (near, far, router):
            socket.close(linger=0)
        context.term()


def main(endpoint: str) -> None:
    """Serve on `endpoint` until killed."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind(endpoint)
    serve(FakeDaemon(), router)


if __name__ == "__main__":
    main(sys.argv[1])
