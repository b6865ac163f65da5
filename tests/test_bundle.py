"""What a bundle must be, and that each fault is refused by its own clear message, before any engine sees it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from delen.exits import bundle as bundle_module
from delen.exits.bundle import BundleError, find_bundle, load_bundle, shipped_directory
from delen.exits.manifest import read_manifest
from delen.tests.small_bundles import digits_copy, edit, first_three_graph, graph, identity_graph, one_exit

SHIPPED = ("digits", "fashion", "identity-3k", "identity-600k")


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return digits_copy(tmp_path)


def refuse(directory: Path, *words: str) -> None:
    """The bundle is refused, and the message has all these words."""
    with pytest.raises(BundleError) as caught:
        load_bundle(directory)
    for word in words:
        assert word in str(caught.value)


def rehash(directory: Path, file: str) -> None:
    """Make the manifest agree with a file that the test has replaced."""
    manifest = load_manifest(directory)
    edit(directory, manifest[file], hashlib.sha256((directory / file).read_bytes()).hexdigest())


def load_manifest(directory: Path) -> dict[str, str]:
    return read_manifest((directory / "network.toml").read_bytes()).hashes()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles_load(name: str) -> None:
    bundle = load_bundle(shipped_directory() / name)
    assert bundle.manifest.name == name
    assert len(bundle.digest) == 64


def test_digest_is_of_the_manifest_that_names_every_hash(digits: Path) -> None:
    before = load_bundle(digits).digest
    assert before == hashlib.sha256((digits / "network.toml").read_bytes()).hexdigest()
    edit(digits, 'version = "1"', 'version = "2"')
    assert load_bundle(digits).digest != before


def test_calibration_has_one_row_per_held_out_sample() -> None:
    calibration = load_bundle(shipped_directory() / "digits").calibration()
    assert calibration is not None
    assert calibration.confidence.shape == calibration.correct.shape == calibration.agrees.shape == (360, 3)
    assert calibration.fit.sum() == 180
    assert load_bundle(shipped_directory() / "identity-3k").calibration() is None


def test_a_file_that_changed_is_refused(digits: Path) -> None:
    data = bytearray((digits / "segment1.onnx").read_bytes())
    data[-1] ^= 1
    (digits / "segment1.onnx").write_bytes(data)
    refuse(digits, "segment1.onnx", "SHA-256", "export the bundle again")


def test_a_file_swapped_after_the_check_is_caught_when_read(digits: Path) -> None:
    bundle = load_bundle(digits)
    (digits / "head0.onnx").write_bytes((digits / "head1.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"head0\.onnx.*SHA-256"):
        bundle.read("head0.onnx")


def test_only_files_that_the_manifest_names_can_be_read(digits: Path) -> None:
    with pytest.raises(KeyError):
        load_bundle(digits).read("network.toml")


def test_a_missing_file_is_named(digits: Path) -> None:
    (digits / "head2.onnx").unlink()
    refuse(digits, "head2.onnx", "missing")


def test_a_missing_manifest_or_directory_is_named(digits: Path) -> None:
    (digits / "network.toml").unlink()
    refuse(digits, "network.toml", "missing")
    refuse(digits / "nowhere", "not a directory")


def test_a_link_is_refused_wherever_it_points(digits: Path) -> None:
    (digits / "head0.onnx").rename(digits.parent / "elsewhere.onnx")
    (digits / "head0.onnx").symlink_to(digits.parent / "elsewhere.onnx")
    refuse(digits, "head0.onnx", "is a link")


def test_a_link_put_there_after_the_check_is_refused(digits: Path) -> None:
    bundle = load_bundle(digits)
    (digits / "head0.onnx").rename(digits.parent / "elsewhere.onnx")
    (digits / "head0.onnx").symlink_to(digits.parent / "elsewhere.onnx")
    with pytest.raises(BundleError, match="is a link"):
        bundle.read("head0.onnx")


def test_a_manifest_that_is_a_link_is_refused(digits: Path) -> None:
    (digits / "network.toml").rename(digits.parent / "network.toml")
    (digits / "network.toml").symlink_to(digits.parent / "network.toml")
    refuse(digits, "network.toml", "is a link")


def test_a_fifo_is_refused_and_not_waited_for(digits: Path) -> None:
    (digits / "head0.onnx").unlink()
    os.mkfifo(digits / "head0.onnx")
    refuse(digits, "head0.onnx", "not a plain file")


def test_a_manifest_of_absurd_size_is_refused_unread(digits: Path) -> None:
    with (digits / "network.toml").open("r+b") as stream:
        stream.truncate(2**40)
    refuse(digits, "network.toml", "at most")


def test_installers_may_link_what_ships_from_their_cache(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.link(digits / "head0.onnx", digits.parent / "cache")
    refuse(digits, "head0.onnx", "2 names (hard links)")
    monkeypatch.setattr(bundle_module, "shipped_directory", lambda: digits.parent)
    load_bundle(digits)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../head0.onnx", "sub/head0.onnx", "..", "", ".hidden.onnx", "a\\\\b.onnx"]
)
def test_a_path_that_could_leave_the_directory_is_refused(digits: Path, name: str) -> None:
    edit(digits, 'file = "head0.onnx"', f'file = "{name}"')
    refuse(digits, "network.toml", "plain name")


def test_one_file_cannot_play_two_parts(digits: Path) -> None:
    edit(digits, 'file = "head1.onnx"', 'file = "head0.onnx"')
    refuse(digits, "head0.onnx", "named twice")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("format = 1", "format = 1\nsurprise = 1", ("surprise",)),
        ("temperature = ", "warmth = 1.0\ntemperature = ", ("warmth",)),
        ("format = 1", "format = 2", ("format is 2", "reads 1")),
        ("format = 1\n", "", ("format is None", "reads 1")),
        ('licence = "', 'license = "', ("license",)),
        ('version = "1"', "version = 1", ("version", "str")),
        ('name = "digits"', 'name = "../digits"', ("is not a name",)),
        ('classes = ["0", ', "classes = [", ("heads[0].output", "one value per class")),
        ("shape = [1, 8, 8]", "shape = [1, 0, 8]", ("input", "at least 1")),
        ("shape = [1, 8, 8]", "shape = [1, 65536, 65536]", ("input", "at most")),
        ('dtype = "float32"', 'dtype = "object"', ("dtype 'object'", "expected one of")),
        ("std = [0.376]", "std = [0.0]", ("std above 0",)),
        ("accuracy = 0.", "accuracy = 1.", ("expected 0 to 1",)),
        ("accuracy = 0.", "accuracy = nan # 0.", ("expected 0 to 1",)),
        ("temperature = ", "temperature = -", ("temperature", "above 0")),
        ("gmac = ", "gmac = -", ("exits[0]: gmac -", "at least 0")),
        ("gmac = ", "gmac = nan # ", ("exits[0]: gmac nan", "at least 0")),
        ("gmac = ", "gmac = inf # ", ("exits[0]: gmac inf",)),
        ("gmac = ", "gmac = 1.0 # ", ("exits[1]: gmac", "at least 1")),
        ('sha256 = "', 'sha256 = "x', ("sha256", "64 lower-case hex")),
        ("[[exits]]", "[[exits]]\naccuracy = 0.5\ntemperature = 1.0\n[[exits]]", ("as many of each",)),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(digits: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    edit(digits, old, new)
    refuse(digits, "network.toml", *words)


def test_a_truncated_manifest_is_refused(digits: Path) -> None:
    path = digits / "network.toml"
    whole = path.read_bytes()
    # What follows is provenance, free text that a cut cannot make wrong.
    needed = whole.index(b"\n\n[provenance]")
    for length in [*range(0, needed, 97), needed - 1]:
        path.write_bytes(whole[:length])
        refuse(digits)
    path.write_bytes(whole[:needed])
    load_bundle(digits)


def test_a_manifest_that_is_not_text_is_refused(digits: Path) -> None:
    (digits / "network.toml").write_bytes(b"\xff\xfe\x00")
    refuse(digits, "network.toml", "not TOML")


@pytest.mark.parametrize("name", ["weights.pt", "model.PKL", "w.pickle", "x.joblib", "a.npy"])
def test_files_that_can_run_code_are_refused(digits: Path, name: str) -> None:
    (digits / name).write_bytes(b"\x80\x04N.")
    refuse(digits, name, "can run code", "remove it")


def test_a_file_that_the_manifest_does_not_name_is_refused(digits: Path) -> None:
    (digits / "extra.onnx").write_bytes(b"")
    refuse(digits, "extra.onnx", "does not name")


def test_a_readme_a_licence_and_profiles_may_lie_beside(digits: Path) -> None:
    (digits / "README.md").write_text("what this is")
    (digits / "LICENSE").write_text("Apache-2.0")
    (digits / "profiles").mkdir()
    load_bundle(digits)


def test_profiles_elsewhere_through_a_link_are_refused(digits: Path) -> None:
    (digits / "profiles").symlink_to(digits.parent)
    refuse(digits, "profiles", "link")


def test_shapes_that_do_not_chain_are_refused_without_an_engine(digits: Path) -> None:
    edit(digits, "shape = [8, 8, 8]", "shape = [8, 4, 4]")
    refuse(digits, "segment0.onnx", "its output is float32[?, 8, 8, 8]", "the manifest says float32[batch, 8, 4, 4]")


def test_a_graph_of_another_place_is_refused(digits: Path) -> None:
    (digits / "segment2.onnx").write_bytes((digits / "segment1.onnx").read_bytes())
    rehash(digits, "segment2.onnx")
    refuse(digits, "segment2.onnx", "its input is float32[?, 8, 8, 8]", "fit together")


def test_a_graph_that_is_not_onnx_is_refused(digits: Path) -> None:
    (digits / "segment2.onnx").write_bytes(b"not a graph at all")
    rehash(digits, "segment2.onnx")
    refuse(digits, "segment2.onnx", "not ONNX")


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
    weight = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "outside")
    onnx.external_data_helper.set_external_data(weight, "/etc/passwd")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    segment = graph([onnx.helper.make_node("Add", ["input", "outside"], ["output"])], given=[4], constants=[weight])
    with pytest.raises(BundleError, match="'outside' keeps its data in another file"):
        one_exit(tmp_path, segment, first_three_graph())
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_with_objects_in_it_is_refused_unread(digits: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("doubt", "correct", "agrees", "fit"):
            member = io.BytesIO()
            np.save(member, np.array([{"a": 1}], dtype=object), allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    (digits / "calibration.npz").write_bytes(packed.getvalue())
    rehash(digits, "calibration.npz")
    refuse(digits, "calibration.npz", "doubt is object", "objects are never read")


def test_find_by_name_by_path_and_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_bundle("digits", [tmp_path, shipped_directory()]) == shipped_directory() / "digits"
    own = digits_copy(tmp_path)
    assert find_bundle("digits", [tmp_path, shipped_directory()]) == own
    assert find_bundle(str(own), []) == own
    monkeypatch.chdir(own.parent)
    assert find_bundle("digits", [shipped_directory()]) == shipped_directory() / "digits", "a name goes first"
    own.rename(own.parent / "mine")
    assert find_bundle("mine", [shipped_directory()]) == Path("mine"), "and a directory here will do"
    (own.parent / "mine").rename(own)
    with pytest.raises(BundleError, match=r"no network named 'dogs'.*there are: digits"):
        find_bundle("dogs", [tmp_path])
    with pytest.raises(BundleError, match=r"holds no network\.toml"):
        find_bundle(str(tmp_path), [])
    with pytest.raises(BundleError, match="no network named ''"):
        find_bundle("", [own])


@pytest.mark.slow
def test_reading_a_bundle_needs_no_engine() -> None:
    script = (
        "import sys; from delen.exits.bundle import load_bundle, shipped_directory; "
        "load_bundle(shipped_directory() / 'digits'); "
        "sys.exit(str({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)) if "
        "{'torch', 'onnx', 'onnxruntime'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_tiny_bundle_made_by_hand_loads(tmp_path: Path) -> None:
    bundle = one_exit(tmp_path, identity_graph(), first_three_graph())
    assert bundle.directory == tmp_path / "tiny"
    assert bundle.read("segment0.onnx") == identity_graph()
