"""P13: a configuration that is wrong ends no service and begins none; one that is right costs nobody a request."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.daemon.audit_log import read_audit
from delen.daemon.keeping import AUDIT
from delen.tests.daemon_fixture import delen
from delen.tests.faults import figures
from delen.tests.faults.counts import count, randomness
from delen.tests.faults.judged import Load
from delen.tests.faults.measured import lend
from delen.tests.faults.restarting import Kept
from delen.tests.faults.shifting import shifting
from delen.tests.faults.wrong_files import Files, wrong_ways

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

TENANTS = ("a", "b")
# Wrong file or wrong directory (66), and everything else that is wrong with a configuration (78): neither is started
# again by the service manager (RestartPreventExitStatus).
EXIT_CODES = (66, 78)
WAIT_S = 20.0


class Reloading:
    """A daemon whose configuration is written again and again."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        head = f'runtime_dir = "{kept.place}/run"\nstate_dir = "{kept.state}"\n'
        head += f'networks = ["{shifting(kept.place, "net0", 0)}"]'
        self.files = Files(kept.config, head, os.getuid())
        self.files.good()
        self.count = 0

    def reload(self) -> str:
        """Have it read what is there; what it says of that, once it has acknowledged it."""
        self.kept.hang_up()
        assert self.kept.ready_within(WAIT_S), "a reload is not acknowledged"
        self.count += 1
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            # The last line may be half written yet.
            lines = [line for line in self.kept.log.read_text().split("\n")[:-1] if "reloaded" in line]
            if len(lines) >= self.count:
                return lines[-1]
        raise AssertionError("nothing is said of a reload")


def until_answered(load: Load, done: int) -> None:
    """More than `done`, one for each reload: that may be sooner over than a request, where the machine is busy."""
    until_s = time.monotonic() + WAIT_S
    while load.answered <= done:
        assert time.monotonic() < until_s, "nobody is answered any more"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def reloading(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Reloading]:
    with Kept(tmp_path_factory.mktemp("r")) as kept:
        lend(folder, kept)
        made = Reloading(kept)
        kept.start()
        assert kept.ready_within(5 * WAIT_S)
        yield made
        assert kept.end() == 0


def test_whatever_is_wrong_with_a_configuration_the_old_one_serves_on(reloading: Reloading) -> None:
    files = reloading.files
    ways = wrong_ways(files, count("P13 bad configurations"), randomness("P13"))
    audit = reloading.kept.state / AUDIT / "audit.jsonl"
    with Load(reloading.kept, ["net0"], TENANTS) as load:
        for done, way in enumerate(ways, 1):
            way.make()
            said = reloading.reload()
            assert "configuration not reloaded, all stays as it was" in said, way.name
            for word in way.words:
                assert word in said, f"{way.name}: {said}"
            last = read_audit(audit).entries[-1]
            assert (last.what, last.about) == ("reload", {"taken": False})
            files.good()
            until_answered(load, done)
        assert "configuration reloaded; 2 tenants" in reloading.reload()
        load.end()
    assert load.wrong == []
    assert load.unanswered() == 0
    assert load.answered > len(ways)
    assert "Traceback" not in reloading.kept.log.read_text()


def test_the_line_is_named(reloading: Reloading) -> None:
    files = reloading.files
    for where, line in (("settings", "spin_us = -1"), ("limits", "queued_max = 0"), ("a", 'weight = "heavy"')):
        files.good(**{where: line})
        assert f"{files.line(line)}: " in reloading.reload()
    files.good()


def test_a_daemon_is_not_begun_with_a_wrong_configuration(reloading: Reloading, tmp_path: Path) -> None:
    files = reloading.files
    ways = wrong_ways(files, count("P13 bad configurations"), randomness("P13"))
    some = count("P13 starts with a bad configuration")
    unlike = []
    for way in randomness("P13", 1).sample(ways, some):
        way.make()
        # Where another's daemon runs, who finds the fault first does not matter; here the configuration should.
        elsewhere = () if "socket path" in way.words else ("--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path))
        ended = delen("serve", "--config", str(files.path), *elsewhere)
        # A file that is not there is found out by the command line, in its words.
        words = ("does not exist",) if "No such file" in way.words else way.words
        if (
            ended.returncode not in EXIT_CODES
            or "Traceback" in ended.stderr
            or not all(word in ended.stderr for word in words)
        ):
            unlike.append((way.name, words, ended.returncode, ended.stderr))
        files.good()
    assert unlike == []


def test_no_request_is_lost_to_reloads_under_load(reloading: Reloading) -> None:
    files, random, took_s = reloading.files, randomness("P13", 2), []
    another = f'[[tenants]]\nname = "c"\nuids = [{os.getuid()}]\n'
    with Load(reloading.kept, ["net0"], TENANTS) as load:
        for done in range(1, count("P13 reloads") + 1):
            files.good(
                limits=f"queued_max = {random.randrange(100, 1000)}",
                a=f"weight = {random.randrange(1, 9)}.0",
                more=random.choice(["", another, "[policy_options]\nspare_share = 0.25\n"]),
            )
            began_s = time.monotonic()
            said = reloading.reload()
            took_s.append(time.monotonic() - began_s)
            assert "configuration reloaded" in said
            until_answered(load, done)
        load.end()
    # Nothing but answers: a refusal or an error would be wrong.
    assert load.wrong == []
    assert load.unanswered() == 0
    assert load.answered > count("P13 reloads")
    figures.note_spread("P13 reload, to its acknowledgement", took_s, "s")
    files.good()
    reloading.reload()
    assert [path.parent.name for path in sorted((reloading.kept.place / "run" / "t").glob("*/sock"))] == list(TENANTS)
