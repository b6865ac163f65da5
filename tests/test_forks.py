"""No process is forked, and no thread but the loop's has a socket: ZeroMQ's contexts and sockets stand neither."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from delen.tests.source_files import Source, calls, check, imports, over, sources

pytestmark = pytest.mark.house

# `subprocess.Popen` runs another program at once, in a child that does nothing else first.
FORKS = {"os.fork", "os.forkpty", "pty.fork", "multiprocessing.Process"}
THREADS = {"threading.Thread", "Thread", "ThreadPoolExecutor", "concurrent.futures.ThreadPoolExecutor"}
# Threads of the daemon: who reads and who sets the board's clocks, a change's long work, the disk's, the log's, and who
# listens to workers.
WITH_THREADS = [
    *("daemon/aside.py", "daemon/change.py", "daemon/keeping.py"),
    *("daemon/log_writer.py", "daemon/worker_words.py"),
]


def test_nothing_forks() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node, name in calls(source):
            if name in FORKS or any(keyword.arg == "preexec_fn" for keyword in node.keywords):
                yield node.lineno, f"calls {name}"

    check("processes are started, never forked", over(sources(), rule))


def test_only_the_loop_s_own_thread_has_sockets() -> None:
    daemon = [source for source in sources() if source.room == "daemon" and not source.path.endswith("_bench.py")]
    with_threads = [source for source in daemon if any(name in THREADS for _, name in calls(source))]
    assert [source.path for source in with_threads] == WITH_THREADS
    for source in with_threads:
        assert not {"zmq", "daemon.sockets", "daemon.door"} & {found.module for found in imports(source)}, source.path
