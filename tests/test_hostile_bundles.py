"""Nothing hostile gets as far as an engine: every case of the corpus is refused, in words, and nothing outside is read.

The corpus: `hostile_graphs.py` (ONNX), `hostile_files.py` (directories, names, calibrations). Each case is one good
bundle with one thing wrong, and its hashes put right, as whoever made it would.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from delen.clients.info import Preprocessing
from delen.exits.bundle import BundleError, load_bundle, shipped_directory
from delen.exits.bundle_writer import Description, Part, write_bundle
from delen.exits.manifest import ExitEntry, TensorShape
from delen.tests.hostile_files import CALIBRATIONS, NAMES, PLACES, rehash
from delen.tests.hostile_graphs import GRAPHS, WIDTH, good
from delen.tests.small_bundles import digits_copy

_watched: list[set[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    # A number is a file that is open already.
    if event == "open" and _watched and not isinstance(arguments[0], int):
        _watched[-1].add(str(arguments[0]))


# A hook cannot be taken out again, so it stays and notes nothing unless somebody watches.
sys.addaudithook(_note)


@contextmanager
def only_within(directory: Path) -> Iterator[None]:
    """Fail where a file outside the directory is opened meanwhile."""
    _watched.append(set())
    try:
        yield
    finally:
        opened = _watched.pop()
    assert {path for path in opened if not Path(path).is_relative_to(directory)} == set()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one exit around the good graph."""
    shape = TensorShape(dtype="float32", shape=(WIDTH,))
    description = Description(
        name="small",
        version="1",
        licence="Apache-2.0",
        classes=tuple("abcd"),
        input=shape,
        preprocessing=Preprocessing(),
        exits=(ExitEntry(accuracy=0.5, temperature=1.0),),
        provenance={},
    )
    out = tmp_path_factory.mktemp("good") / "small"
    write_bundle(out, description, segments=[Part(good(), shape)], heads=[Part(good(), shape)])
    return out


def refused(directory: Path) -> str:
    with only_within(directory), pytest.raises(BundleError) as caught:
        load_bundle(directory)
    said = str(caught.value)
    assert len(said.encode("utf-8", "replace")) < 4096
    return said


def test_what_the_corpus_damages_is_good_and_watching_sees_who_reads_outside(small: Path, tmp_path: Path) -> None:
    with only_within(small):
        load_bundle(small)
    load_bundle(shipped_directory() / "digits")  # Python itself reads a table when it opens its first zip
    digits = digits_copy(tmp_path)
    with only_within(digits):
        load_bundle(digits)
    with pytest.raises(AssertionError), only_within(tmp_path):
        os.close(os.open("/dev/null", os.O_RDONLY))


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert len(GRAPHS) + len(PLACES) + len(NAMES) + len(CALIBRATIONS) >= 230


@pytest.mark.parametrize("case", [case for case in GRAPHS if case != "half a million nodes"])
def test_a_hostile_graph_is_refused(small: Path, tmp_path: Path, case: str) -> None:
    data, words = GRAPHS[case]
    directory = Path(shutil.copytree(small, tmp_path / "small"))
    (directory / "segment0.onnx").write_bytes(data)
    rehash(directory, "segment0.onnx")
    said = refused(directory)
    assert words in said
    assert "segment0.onnx" in said


@pytest.mark.slow
def test_a_graph_of_half_a_million_nodes_is_refused_before_it_is_memory(small: Path, tmp_path: Path) -> None:
    test_a_hostile_graph_is_refused(small, tmp_path, "half a million nodes")


@pytest.mark.parametrize("case", PLACES)
def test_a_hostile_directory_is_refused(tmp_path: Path, case: str) -> None:
    damage, words = PLACES[case]
    directory = digits_copy(tmp_path)
    damage(directory)
    assert words in refused(directory)


@pytest.mark.parametrize("case", NAMES)
def test_a_hostile_name_is_refused(tmp_path: Path, case: str) -> None:
    damage, words = NAMES[case]
    directory = digits_copy(tmp_path)
    damage(directory)
    assert words in refused(directory)


@pytest.mark.parametrize("case", CALIBRATIONS)
def test_a_hostile_calibration_is_refused(tmp_path: Path, case: str) -> None:
    made, words = CALIBRATIONS[case]
    directory = digits_copy(tmp_path)
    (directory / "calibration.npz").write_bytes(made())
    rehash(directory, "calibration.npz")
    said = refused(directory)
    assert words in said
    assert "calibration.npz" in said


def test_what_is_exchanged_after_the_check_is_found_when_it_is_read(tmp_path: Path) -> None:
    for index, exchange in enumerate(("link", "second name", "pipe", "one bit")):
        directory = digits_copy(tmp_path / str(index))
        bundle, path = load_bundle(directory), directory / "head0.onnx"
        if exchange == "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        elif exchange == "second name":
            os.link(path, tmp_path / "second")
        elif exchange == "pipe":
            path.unlink()
            os.mkfifo(path)
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"\x00")
        with only_within(directory), pytest.raises(BundleError):
            bundle.read("head0.onnx")
