"""What the desk tells a tenant of another one's things: nothing, not even that they are there."""

from __future__ import annotations

from typing import Any

from delen.clients.wire import VERSION, Cancel, Feedback, Fetch, Infer, Refusal, SetConditions, Traces
from delen.daemon.config import TenantConfig
from delen.tests.test_desk import INPUT, NO_BOUNDS, SPEC, STOP, Counter


def test_what_is_anothers_is_answered_word_for_word_as_what_does_not_exist() -> None:
    """Tenant `a` has a network, a request that runs and one that has ended; `c` asks for each, and for what is not."""
    counter = Counter()
    counter.desk.change([TenantConfig("a"), TenantConfig("c", networks=("net",))])
    counter.hello()
    counter.hello(tenant="c")
    counter.infer(b"ended", "other")
    counter.run()
    counter.infer(b"runs", "other")

    def told(message: Any, *, tensor: bytes | None = None) -> tuple[str, str]:
        [outgoing] = counter.send(message, tenant="c", tensor=tensor)
        assert isinstance(outgoing.reply, Refusal)
        return outgoing.reply.code, outgoing.reply.message

    def network(name: str) -> list[tuple[str, str]]:
        asked = Infer(VERSION, b"1", name, (SPEC,), NO_BOUNDS)
        said = [told(asked, tensor=INPUT), told(SetConditions(VERSION, b"2", name, (STOP,) * 3))]
        return [(code, text.replace(name, "NAME")) for code, text in said]

    assert network("other") == network("nowhere")
    for kind in (Fetch, Cancel):
        assert told(kind(VERSION, b"ended")) == told(kind(VERSION, b"runs")) == told(kind(VERSION, b"never"))
    assert told(Feedback(VERSION, b"3", b"ended", 7)) == told(Feedback(VERSION, b"3", b"never", 7))
    (code, foreign), absent = told(Traces(VERSION, b"4", tenant="a")), told(Traces(VERSION, b"4", tenant="d"))
    assert (code, foreign.replace("'a'", "'d'")) == absent
