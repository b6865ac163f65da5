"""Names that want to be paths, orders to a terminal, lines of a log or labels without number: they stay names.

Where a name comes in it is refused or kept whole; where it goes out (log, metrics, paths) nothing of it is anything
but text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from delen.clients.gateway_metrics import metrics_page
from delen.clients.info import TenantStats
from delen.clients.places import endpoint_path, name_fault
from delen.clients.wire import VERSION, Hello, Infer, Stats, StatsReply, TensorSpec, decode_reply, encode
from delen.daemon.log_lines import LINE_BYTES_MAX, Event, Form, render
from delen.exits.manifest import ManifestFault, read_manifest
from delen.tests.faults import counts
from delen.tests.faults.counts import count, randomness
from delen.tests.fuzz.desk_target import LIMITS, Target
from delen.tests.fuzz.file_readers import READERS
from delen.tests.fuzz.messages import ONE

pytestmark = [pytest.mark.faults]

FORMS: tuple[Form, ...] = ("text", "logfmt", "json")
NAMES = (
    *("", ".", "..", "...", "../x", "../../etc/passwd", "/etc/passwd", "//x", "a/b", "a\\b", "C:x", "~", "~root", "-"),
    *(
        "--help",
        "-rf",
        "a b",
        " a",
        "a ",
        "\t",
        "\n",
        "a\nb",
        "a\r\nb",
        "\0",
        "a\0b",
        "\x1b[2J",
        "\x1b]0;x\x07",
        "\x7f",
    ),
    *(
        "\x85",
        "\x9b31m",
        "\u2028",
        "\u2029",
        "\u202egnp.exe",
        "\u2066x",
        "\ufeffx",
        "\u00ad",
        "\udc80",
        "é",
        "\u0065\u0301",
    ),
    *("x" * 64, "x" * 65, "x" * 255, "x" * 256, "x" * 5_000, "\U0001f600" * 64, "con", "nul.txt", "a.", ".a", "a..b"),
    *(
        '"',
        "'",
        "`id`",
        "$(id)",
        "${x}",
        "%s%n%x",
        "{0}",
        "a=b",
        'x" level=error y="',
        'a",tenant="b',
        "a}\n# HELP x",
        "\\",
    ),
)
# What may be a name, by another hand than `name_fault`'s.
RIGHT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
# A line of Prometheus's text format 0.0.4, as its page has it.
SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)*\})? (-?[0-9.e+-]+|\+Inf|NaN)')


def held(name: str) -> None:
    """All that must be true of any name."""
    assert (name_fault("tenant", name) is None) == bool(RIGHT.fullmatch(name)), repr(name)
    if name_fault("tenant", name) is None:
        assert endpoint_path(Path("/run/delen"), name).resolve() == Path(f"/run/delen/t/{name}/sock")
    for form in FORMS:
        _one_line(name, form)
    _labelled(name)


def _one_line(name: str, form: Form) -> None:
    event = Event(
        "2026-01-01T00:00:00", "warning", f"tenant {name}: connection denied", {"tenant": name, "client": name}
    )
    line = render(event, form)
    text = line.decode()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert len(line) <= LINE_BYTES_MAX
    assert text[:-1].isprintable()
    if form == "json":
        said = json.loads(text)
        assert (said["level"], said["tenant"][:100]) == ("warning", name[:100])
    if form == "logfmt":
        # Quotation marks of its own it cannot end.
        assert len(re.findall(r"(?:^| )level=(\w+)", re.sub(r'"(?:[^"\\]|\\.)*"', '""', text))) == 1


def _labelled(name: str) -> None:
    row = TenantStats(
        tenant=name,
        accepted=1,
        answered=1,
        refused=0,
        failed=0,
        pending=0,
        bounds_met=1,
        bounds_broken=0,
        energy_mj=None,
        energy_source="unknown",
        device_us=1,
        latency_p50_us=1,
        latency_p99_us=1,
        exits={name: (1,)},
    )
    lines = metrics_page(StatsReply(VERSION, b"s", 1, 0, "ready", 0, (row,)), version="1").split("\n")
    plain = metrics_page(StatsReply(VERSION, b"s", 1, 0, "ready", 0, (_renamed(row),)), version="1").split("\n")
    assert len(lines) == len(plain)
    for line in lines[:-1]:
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def _renamed(row: TenantStats) -> TenantStats:
    from msgspec.structs import replace

    return replace(row, tenant="plain", exits={"plain": (1,)})


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_name_that_was_thought_up(name: str) -> None:
    held(name)


@pytest.mark.slow
def test_names_of_anything() -> None:
    draw = randomness("names")
    for _ in range(count("P10 examples of each property") // 5):
        held(_name(draw))


def _name(draw: Random) -> str:
    pieces = [draw.choice(NAMES)[:40] for _ in range(draw.choice([1, 2, 3]))]
    pieces += [
        chr(draw.choice([draw.randrange(0x20), draw.randrange(0x300), draw.randrange(0x11_0000)])) for _ in range(3)
    ]
    draw.shuffle(pieces)
    return "".join(pieces)


@pytest.mark.parametrize("key", ["name", "version", "file"])
def test_a_bundle_s_names_stay_in_its_directory(key: str, tmp_path: Path) -> None:
    good = READERS["manifest"].good(tmp_path).decode()
    assert re.search(rf'^{key} = "[^"]*"', good, re.MULTILINE)
    for name in NAMES if key != "file" else [f"{name}.onnx" for name in NAMES]:
        quoted = json.dumps(name).replace("\x7f", "\\u007f")
        before, after = re.split(rf'^{key} = "[^"]*"', good, maxsplit=1, flags=re.MULTILINE)
        text = f"{before}{key} = {quoted}{after}"
        try:
            manifest = read_manifest(text.encode("utf-8", "surrogatepass"))
        except ManifestFault:
            continue
        assert all(
            RIGHT.match(said) and "/" not in said for said in (manifest.name, manifest.version, *manifest.hashes())
        )


@pytest.mark.slow
def test_names_without_number_make_no_labels_and_no_sessions_without_number() -> None:
    """Clients, networks, ids: whoever invents a new one with every message has the same few of everything."""
    target = Target()
    many = 100_000 if counts.SOAK else 20_000
    for number in range(many):
        route = b"r%d" % number
        target.feed(encode(Hello(VERSION, b"h", f"client-{number}")), route)
        spec = (TensorSpec("float32", (1,)),)
        target.feed(encode(Infer(VERSION, b"i%d" % number, f"network-{number}", spec), (ONE,)), route)
    [told] = target.desk.handle(target.now_us, "b", b"m", encode(Hello(VERSION, b"h", "m")))[0]
    [told] = target.desk.handle(target.now_us, "b", b"m", encode(Stats(VERSION, b"s")))[0]
    reply = decode_reply(encode(told.reply))
    assert isinstance(reply, StatsReply)
    page = metrics_page(reply, version="1")
    assert page.count("\n") < 200
    assert "network-" not in page
    assert "client-" not in page
    sessions = target.desk._tenants["a"].sessions
    sizes = [len(value) for value in vars(sessions).values() if hasattr(value, "__len__")]
    assert max(sizes) <= 4 * LIMITS.sessions_max, sizes
