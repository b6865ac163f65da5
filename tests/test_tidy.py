"""The house rules as tests: who may import whom, who owns what, sizes, names, bans, and that everything ships.

Flow: `source_files.py` reads and parses; each rule here is one test that collects `file:line what` and fails with all
of them at once. Does not: check style that ruff and mypy check already.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.tests.source_files import (
    DISTRIBUTIONS,
    ROOMS,
    ROOT,
    Source,
    calls,
    check,
    functions,
    house_tests,
    imports,
    over,
    pyproject,
    sources,
)

pytestmark = pytest.mark.house

FILE_LINES_MAX, FUNCTION_LINES_MAX, PARAMETERS_MAX = 400, 70, 5
# A function this short says what it does by its name and types.
UNDOCUMENTED_LINES_MAX = 8

# Importable by every room, because they import nothing of delen but each other.
PURE_CLIENTS = {
    "clients.wire",
    "clients.info",
    "clients.bounds",
    "clients.arrivals",
    "clients.places",
    "clients.durable",
} | {"clients.key_text", "clients.toml_text", "clients.wire_fault", "clients.adaptation"}
# A room imports itself and the ones before it.
ORDER = ("exits", "profiles", "policies", "daemon")

ENGINES = {"torch", "onnx", "onnxruntime", "onnxscript", "tensorrt", "pycuda", "cuda"}
CLOCKS = {"time", "datetime"}
CHANCE = {"random", "secrets", "uuid"}
# What each may be imported by, as patterns of room/file.
TRAINING = (
    *("exits/recipes.py", "exits/multi_exit.py", "exits/heads.py", "exits/attaching.py"),
    *("exits/attach_checks.py", "exits/feature_layout.py", "exits/torch_graph.py", "exits/exported_graph.py"),
    *("exits/graph_cuts.py", "exits/cut_costs.py", "exits/workspace.py", "exits/weights_file.py"),
    *("exits/zoo*.py", "exits/train.py", "exits/course.py", "exits/frozen_trunk.py", "exits/losses.py"),
    *("exits/augment.py", "exits/checkpoint.py", "exits/predict.py", "exits/training.py"),
    *("exits/workspace_training.py", "exits/calibrate.py", "exits/computation.py", "exits/export.py"),
    *("exits/quantise.py", "exits/onnx_parts.py", "exits/import_delen.py", "exits/workspace_export.py"),
    *("exits/making.py",),
)
OWNERS: tuple[tuple[str, set[str], tuple[str, ...]], ...] = (
    ("an engine", ENGINES, ("exits/*_runner.py", "exits/torch_*.py", "exits/*cuda_calls.py", *TRAINING)),
    ("zmq", {"zmq"}, ("daemon/loop.py", "daemon/sockets.py", "daemon/door.py", "daemon/*_bench.py", "clients/*.py")),
    (
        "a clock",
        CLOCKS,
        (
            *("daemon/clock.py", "daemon/loop.py", "daemon/log_writer.py", "daemon/keeping.py", "daemon/*_bench.py"),
            *("daemon/worker*.py", "daemon/rights.py", "daemon/battery_config.py"),  # the latter two: a date's type
            *("exits/checkpoint.py", "exits/training.py", "exits/cut_costs.py", "profiles/me*.py", "clients/*.py"),
        ),
    ),
    (
        "chance",
        CHANCE,
        (
            "daemon/simulate.py",
            "daemon/noise.py",
            "daemon/what_if.py",
            "daemon/*_bench.py",
            "exits/train.py",
            "clients/*.py",
        ),
    ),
)
# Reading the board: everybody else asks these two.
BOARD_READERS = ("profiles/meters.py", "profiles/meter_*.py", "profiles/board.py", "profiles/board_*.py")
# Decisions: what they see comes in as arguments.
PURE = (
    "policies/*.py",
    "daemon/server.py",
    "clients/wire.py",
    "clients/info.py",
    "clients/bounds.py",
    "clients/arrivals.py",
    "clients/places.py",
    *("clients/key_text.py", "clients/toml_text.py", "clients/wire_fault.py", "clients/adaptation.py"),
    "daemon/guard.py",
    "daemon/zap.py",
)
IMPURE = CLOCKS | CHANCE | {"os", "socket", "threading", "asyncio", "subprocess", "signal", "select", "zmq"}
# The tops of loops and processes, where a fault of ours is logged before the process ends or carries on.
PROCESS_TOPS = ("daemon/loop.py", "daemon/worker.py", "clients/cli.py")

BANNED_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "multiprocessing"}
BANNED_CALLS = {"eval", "exec", "__import__", "compile"}
BANNED_METHODS = {"torch.load", "yaml.load", "recv_pyobj", "send_pyobj", "recv_serialized", "ProcessPoolExecutor"}
BANNED_WORDS = {"utils", "util", "common", "manager", "helper", "helpers", "misc"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".service", ".conf", ".json", ".yml", ""}


def test_rooms_import_only_themselves_and_the_rooms_before_them() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if source.room not in ORDER:
            return
        allowed = ORDER[: ORDER.index(source.room) + 1]
        for item in imports(source):
            if item.room and item.room not in allowed and item.module not in PURE_CLIENTS:
                yield item.line, f"{source.room} imports {item.module}"

    check(
        f"order of rooms: {' < '.join(ORDER)}; of clients only {', '.join(sorted(PURE_CLIENTS))}", over(sources(), rule)
    )


def test_clients_import_only_clients_except_commands_inside_functions() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if source.room not in ("clients", ""):
            return
        command = source.matches(["clients/cli.py", "clients/command_*.py"])
        for item in imports(source):
            if item.room in ("", "clients") or (command and not item.top):
                continue
            yield item.line, f"imports {item.module}" + (" outside a function" if command else "")

    check(
        "clients import only clients; commands import other rooms inside the function that needs them",
        over(sources(), rule),
    )


def test_pure_clients_import_only_each_other() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if source.path.removesuffix(".py").replace("/", ".") in PURE_CLIENTS:
            for item in imports(source):
                if item.room and item.module not in PURE_CLIENTS:
                    yield item.line, f"imports {item.module}"

    check("what every room may import must itself import no room", over(sources(), rule))


def test_rooms_import_each_other_relatively() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "delen":
                yield node.lineno, f"from {node.module}"
            elif isinstance(node, ast.Import) and any(name.name.split(".")[0] == "delen" for name in node.names):
                yield node.lineno, "import delen"

    check(
        "inside the package, imports of delen are relative (`from ..exits.bundle import Bundle`)", over(sources(), rule)
    )


def test_each_owned_import_stays_with_its_owners() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for what, modules, owners in OWNERS:
            for item in imports(source):
                if item.module.split(".")[0] in modules and not item.room and not source.matches(owners):
                    yield item.line, f"imports {item.module}: {what} belongs to {', '.join(owners)}"

    check("single owners", over(sources(), rule))


def test_random_generators_are_made_only_where_chance_is_allowed() -> None:
    allowed = (
        *("exits/datasets.py", "exits/train.py", "exits/calibrate.py"),
        *("daemon/simulate.py", "daemon/scenario.py", "clients/*.py"),
    )

    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node, name in calls(source):
            if name.endswith("default_rng"):
                if not source.matches(allowed):
                    yield node.lineno, "makes a random generator; take one as an argument"
                elif not node.args and not source.matches(["clients/*.py"]):
                    yield node.lineno, "makes an unseeded generator"

    check("chance is seeded, and passed in", over(sources(), rule))


def test_decisions_are_pure() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if source.matches(PURE):
            for item in imports(source):
                if item.module.split(".")[0] in IMPURE and not item.room:
                    yield item.line, f"imports {item.module}"

    check("decisions take what they need as arguments: no clock, socket, thread, chance", over(sources(), rule))


def test_only_board_and_meters_name_system_files() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if not source.matches(BOARD_READERS):
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Constant) and re.match(r"/?(sys|proc)/", str(node.value)):
                    yield node.lineno, f"names {node.value!r:.60}"

    check(f"/sys and /proc are read by {' and '.join(BOARD_READERS)} alone", over(sources(), rule))


def test_files_stay_short() -> None:
    files = [*sources(), *house_tests()]
    check(
        f"files have at most {FILE_LINES_MAX} lines",
        over(
            files,
            lambda source: [(count, "is too long")] if (count := source.text.count("\n")) > FILE_LINES_MAX else [],
        ),
    )


def test_functions_stay_short() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node in functions(source):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines"

    check(f"functions have at most {FUNCTION_LINES_MAX} lines", over([*sources(), *house_tests()], rule))


def test_functions_take_few_positional_parameters() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if source.matches(["clients/command_*.py"]):
            return  # click passes every option of a command by name
        for node in functions(source):
            names = [arg.arg for arg in node.args.posonlyargs + node.args.args if arg.arg not in ("self", "cls")]
            if len(names) > PARAMETERS_MAX:
                yield node.lineno, f"{node.name} takes {len(names)}: {', '.join(names)}"

    check(f"functions take at most {PARAMETERS_MAX} positional parameters", over(sources(), rule))


def test_modules_say_what_they_are_for() -> None:
    check(
        "every module has a docstring: its role, its flow, what it does not do",
        over(
            sources(),
            lambda source: [(1, "has none")] if source.text.strip() and not ast.get_docstring(source.tree) else [],
        ),
    )


def test_public_things_have_docstrings() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node in source.tree.body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or ast.get_docstring(node):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if not node.name.startswith("_") and lines > UNDOCUMENTED_LINES_MAX:
                yield node.lineno, f"{node.name} has none"

    check(f"public classes and functions over {UNDOCUMENTED_LINES_MAX} lines have a docstring", over(sources(), rule))


def test_nothing_unpickles_or_evaluates() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for item in imports(source):
            if not item.room and item.module.split(".")[0] in BANNED_MODULES:
                yield item.line, f"imports {item.module}"
        for node, name in calls(source):
            safely = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
            if source.path == "exits/weights_file.py" and name == "torch.load" and safely:
                continue  # the one command that converts pickles
            if name in BANNED_CALLS or any(name == bad or name.endswith("." + bad) for bad in BANNED_METHODS):
                yield node.lineno, f"calls {name}"
            for keyword in node.keywords:
                true = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "allow_pickle" and not true:
                    yield node.lineno, "allow_pickle is not False"

    check("data never becomes code", over(sources(), rule))


def test_numpy_files_are_read_without_pickle() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node, name in calls(source):
            if name in ("np.load", "numpy.load") and "allow_pickle" not in [word.arg for word in node.keywords]:
                yield node.lineno, "np.load without allow_pickle=False"

    check("np.load says allow_pickle=False", over(sources(), rule))


def test_only_process_tops_catch_everything() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                passed_on = any(isinstance(step, ast.Raise) and step.exc is None for step in node.body)
                broad = caught in ("everything", "Exception", "BaseException") and not passed_on
                if broad and not source.matches(PROCESS_TOPS):
                    yield node.lineno, f"catches {caught}"

    check(f"`except Exception` only at the top of a loop or process: {', '.join(PROCESS_TOPS)}", over(sources(), rule))


def test_names_say_what_a_file_holds() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        stem = Path(source.path).stem
        if stem in sys.stdlib_module_names:
            yield 1, "is named like a module of the standard library"
        if BANNED_WORDS & set(stem.split("_")):
            yield 1, "is named for nothing in particular"

    check("file names", over(sources(), rule))


def test_every_import_is_declared() -> None:
    project = pyproject()["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    declared = {re.split(r"[^A-Za-z0-9_-]", item)[0].lower() for item in wanted}

    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for item in imports(source):
            top = item.module.split(".")[0]
            ours = item.room or not top or source.room == "" or top in ("delen", *ROOMS)
            if item.typing_only or ours:
                continue
            if top not in sys.stdlib_module_names and DISTRIBUTIONS.get(top, top).lower() not in declared:
                yield item.line, f"imports {top}"

    check("every import is of the standard library or declared in pyproject.toml", over(sources(), rule))


def test_every_package_is_shipped() -> None:
    listed = set(pyproject()["tool"]["setuptools"]["packages"])
    found = {"delen"} | {f"delen.{path.parent.name}" for path in ROOT.glob("[!.]*/__init__.py")}
    assert listed == found, "pyproject.toml's packages and the directories with an __init__.py differ"
    nested = [path for room in ROOMS for path in (ROOT / room).glob("*/__init__.py")]
    assert not nested, f"rooms are flat: {nested}"


def test_every_data_file_is_shipped() -> None:
    patterns = {
        package.removeprefix("delen").removeprefix("."): globs
        for package, globs in pyproject()["tool"]["setuptools"]["package-data"].items()
    }
    # Notes and results for those who work on delen; a user of the wheel has no use for them.
    notes = ("profiles/LOG.md", "profiles/results/*")
    missing = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            name = path.relative_to(ROOT / room).as_posix()
            if path.is_dir() or "__pycache__" in name or (path.suffix == ".py" and "/" not in name):
                continue
            shipped = any(fnmatch.fnmatch(name, glob) for glob in patterns.get(room, []))
            if not shipped and not any(fnmatch.fnmatch(f"{room}/{name}", note) for note in notes):
                missing.append(f"{room}/{name}")
    check("every data file matches [tool.setuptools.package-data]", missing)


def test_tests_neither_sleep_nor_read_the_clock() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        if "mark.e2e" in source.text:
            return
        for node, name in calls(source):
            if name in ("sleep", "asyncio.sleep") or name.startswith(("time.", "datetime.")):
                yield node.lineno, f"calls {name}"

    check("tests are deterministic; those that need real time are marked e2e", over(house_tests(), rule))


def test_no_text_names_the_machine_it_was_written_on() -> None:
    # Split, so that this file does not find itself.
    private = re.compile("/" + r"(work|root|home)/|/tmp/" + "(proto|briefs)")
    found = []
    for path in [*ROOT.glob("*"), *(item for room in (*ROOMS, "tests", ".ci") for item in (ROOT / room).rglob("*"))]:
        if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
            lines = path.read_text("utf-8", errors="replace").splitlines()
            found += [
                f"{path.relative_to(ROOT)}:{n} {line.strip():.80}"
                for n, line in enumerate(lines, 1)
                if private.search(line)
            ]
    check("no paths of one machine", found)


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject()["project"]["license"] == "Apache-2.0"
