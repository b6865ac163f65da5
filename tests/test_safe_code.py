"""The house rules that keep data from becoming code: what may not be called, and who alone may call what.

Beside `test_tidy.py`, which bans pickles and eval, and ruff's S rules, which know the standard library.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from delen.tests.source_files import ROOMS, ROOT, Source, calls, check, imports, over, sources

pytestmark = pytest.mark.house

# Each reads or runs what it is given with more trust than any file deserves.
BANNED = {
    "onnx.load": "follows a model to other files: read the bytes, then onnx.load_model_from_string",
    "onnx.load_model": "follows a model to other files: read the bytes, then onnx.load_model_from_string",
    "onnx.load_external_data_for_model": "follows a model to other files",
    "onnx.hub.load": "loads from the network",
    "torch.hub.load": "runs a program from the network",
    "torch.jit.load": "runs what it loads",
    "torch.export.load": "unpickles",
    "np.memmap": "maps a file that may change under it",
    "shutil.unpack_archive": "writes where the archive says",
    "extractall": "writes where the archive says",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "tempfile.mktemp": "names a file that somebody else may make first",
    "recv_json": "decodes without a schema",
    "hashlib.md5": "no longer tells files apart",
    "hashlib.sha1": "no longer tells files apart",
    "register_custom_ops_library": "loads code into the engine",
    "ssl._create_unverified_context": "trusts anybody",
}
BANNED_MODULES = {"runpy", "code", "codeop", "pty", "ftplib", "telnetlib", "smtplib", "xmlrpc", "wsgiref", "imp"}
# What gives more power than most code needs, and the files that need it.
OWNERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("ctypes", ("exits/whole_directory.py", "exits/cuda_calls.py", "daemon/memory.py"), "calls without a check"),
    ("cryptography", ("exits/sign*.py",), "keys are made and used in one place"),
    ("zipfile", ("exits/*.py",), "only the rooms that read data sets and calibrations open archives"),
    ("tarfile", (), "no archive of that kind is read"),
)


def test_nothing_is_called_that_trusts_what_it_reads() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node, name in calls(source):
            for banned, reason in BANNED.items():
                if name == banned or ("." not in banned and name.endswith(f".{banned}")):
                    yield node.lineno, f"calls {name}, which {reason}"
        for item in imports(source):
            if not item.room and item.module.split(".")[0] in BANNED_MODULES:
                yield item.line, f"imports {item.module}"

    check("data never becomes code", over(sources(), rule))


def test_what_gives_power_stays_with_the_files_that_need_it() -> None:
    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for item in imports(source):
            for module, owners, reason in OWNERS:
                if item.module.split(".")[0] == module and not item.room and not source.matches(owners):
                    yield item.line, f"imports {item.module}, which {reason}"

    check("single owners of powerful modules", over(sources(), rule))


def test_code_is_imported_by_name_only_where_the_name_is_ours_or_the_users() -> None:
    """Of these only a workspace's model comes from a user, who trains it in a program of his own."""
    allowed = ("__init__.py", "exits/__init__.py", "clients/cli.py", "clients/rtt_asker.py", "exits/workspace.py")

    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node, name in calls(source):
            if name.endswith("import_module") and not source.matches(allowed):
                yield node.lineno, f"calls {name}"

    check(f"import by name: {', '.join(allowed)}", over(sources(), rule))


def test_no_secret_is_among_the_files() -> None:
    # Split, so that this file does not find itself.
    secret = re.compile("-----BEGIN [A-Z ]*" + r"PRIVATE KEY|\b(ghp|pypi|xox[bp]|AKIA)[-_A-Za-z0-9]{20,}")
    found = []
    for path in [*ROOT.glob("*"), *(item for room in (*ROOMS, "tests", ".ci") for item in (ROOT / room).rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts and path.stat().st_size < 1_000_000:
            text = path.read_text("utf-8", errors="replace")
            found += [f"{path.relative_to(ROOT)} {hit[0]:.12}..." for hit in secret.finditer(text)]
    check("no keys or tokens", found)


def test_engines_are_given_bytes_and_never_paths() -> None:
    """Of a path an engine reads the file again, after it was checked, and every file that it names besides."""

    def rule(source: Source) -> Iterator[tuple[int, str]]:
        for node, name in calls(source):
            if name.endswith("InferenceSession") and node.args:
                given = node.args[0]
                read = isinstance(given, ast.Call) and ast.unparse(given.func).endswith((".read", ".SerializeToString"))
                if not read and ast.unparse(given) not in ("data", "part.data"):
                    yield node.lineno, f"gives an engine {ast.unparse(given)}"

    check("engines get what was hashed, as bytes", over(sources(), rule))
