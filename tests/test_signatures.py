"""A signed bundle is the one its signer had, to the byte; anything else is refused before it is parsed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from delen.exits import signatures
from delen.exits.bundle import BundleError, load_bundle
from delen.exits.signatures import SignatureError, Trust, sign
from delen.exits.signing_keys import SigningKeyError, make_keys
from delen.tests.hostile_files import rehash
from delen.tests.hostile_graphs import part
from delen.tests.small_bundles import digits_copy, edit

pytest.importorskip("cryptography", reason="makes signatures: pip install 'delen[sign]'")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; its public one is beside it, with .pub."""
    key = tmp_path_factory.mktemp("keys") / "release.pem"
    make_keys(key)
    return key


@pytest.fixture
def signed(keys: Path, tmp_path: Path) -> Path:
    """A signed copy of digits, with a README and a profile beside."""
    directory = digits_copy(tmp_path)
    (directory / "README.md").write_text("what this is")
    (directory / "profiles").mkdir()
    (directory / "profiles" / "board.json").write_text("{}")
    sign(directory, keys)
    return directory


def trust(keys: Path) -> Trust:
    return Trust([f"{keys}.pub"], required=True)


def refused(directory: Path, keys: Path, words: str) -> None:
    with pytest.raises(SignatureError, match=words):
        trust(keys).load(directory)


def test_a_signed_bundle_is_the_same_bundle(signed: Path, keys: Path) -> None:
    bundle = trust(keys).load(signed)
    assert bundle.digest == load_bundle(signed).digest
    assert set(trust(keys).verify(signed).digests) == {
        path.relative_to(signed).as_posix() for path in signed.rglob("*") if path.is_file() and path.name != "model.sig"
    }


def test_the_file_is_in_openssfs_form(signed: Path) -> None:
    """As github.com/ossf/model-signing-spec and what it builds on have it, read here without our own reader."""
    file = json.loads((signed / "model.sig").read_text())
    assert file["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert file["verificationMaterial"]["tlogEntries"] == []
    envelope = file["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [one["keyid"] for one in envelope["signatures"]] == [""]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    resources = statement["predicate"]["resources"]
    assert [one["name"] for one in resources] == sorted(one["name"] for one in resources)
    assert {one["algorithm"] for one in resources} == {"sha256"}
    for one in resources:
        assert one["digest"] == hashlib.sha256((signed / one["name"]).read_bytes()).hexdigest()
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    assert statement["subject"] == [{"name": "digits", "digest": {"sha256": root}}]
    assert statement["predicate"]["serialization"]["ignore_paths"] == ["model.sig"]


def _flip(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        data = bytearray((directory / name).read_bytes())
        data[-1] ^= 1
        (directory / name).write_bytes(data)

    return change


def _reauthored(directory: Path) -> None:
    """Everything agrees with itself, as somebody else would make it; only the signature does not."""
    with (directory / "head0.onnx").open("ab") as stream:
        stream.write(part(6, "a model's doc string"))
    rehash(directory, "head0.onnx")


def _writing(name: str, data: bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / name).write_bytes(data)

    return change


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a graph": (_flip("head0.onnx"), "head0.onnx is not what was signed"),
    "the manifest": (lambda d: edit(d, 'version = "1"', 'version = "2"'), "network.toml is not what was signed"),
    "the calibration": (_flip("calibration.npz"), "calibration.npz is not what was signed"),
    "a README": (_flip("README.md"), "README.md is not what was signed"),
    "a profile": (_flip("profiles/board.json"), "board.json is not what was signed"),
    "a graph with its hash": (_reauthored, "is not what was signed"),
    "one more file": (_writing("LICENSE", b"mine"), "not among the signed files"),
    "one more profile": (_writing("profiles/x.json", b"{}"), "not among the signed"),
    "one file less": (lambda d: (d / "README.md").unlink(), "signed, but missing"),
    "no signature": (lambda d: (d / "model.sig").unlink(), "is not signed"),
    "an empty signature": (_writing("model.sig", b""), "no signature in"),
    "a signature of words": (_writing("model.sig", b"trust me"), "no signature in"),
    "brackets": (_writing("model.sig", b"[" * 100_000), "no signature in"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_any_change_is_refused(signed: Path, keys: Path, case: str) -> None:
    change, words = CHANGES[case]
    change(signed)
    refused(signed, keys, words)


def _set(*path: str | int, to: Any) -> Callable[[Json], None]:
    def change(file: Json) -> None:
        at: Any = file
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to

    return change


OUTER: dict[str, tuple[Callable[[Json], None], str]] = {
    "another format": (_set("mediaType", to="application/json"), "expected application/vnd.dev.sigstore"),
    "another payload's type": (
        _set("dsseEnvelope", "payloadType", to="text/plain"),
        "expected application/vnd.in-toto",
    ),
    "another key's name": (_set("verificationMaterial", "publicKey", "hint", to="ab" * 32), "trusted are"),
    "no key but a certificate": (_set("verificationMaterial", to={"certificate": {}}), "no signature in"),
    "no signatures": (_set("dsseEnvelope", "signatures", to=[]), "one signature"),
    "two signatures": (_set("dsseEnvelope", "signatures", to=[{"sig": ""}, {"sig": ""}]), "one signature"),
    "an empty signature": (_set("dsseEnvelope", "signatures", 0, "sig", to=""), "does not hold"),
    "a signature of zeros": (_set("dsseEnvelope", "signatures", 0, "sig", to="MAYCAQACAQA="), "does not hold"),
    "no base64": (_set("dsseEnvelope", "signatures", 0, "sig", to="!!"), "damaged"),
    "another payload": (_set("dsseEnvelope", "payload", to="e30="), "does not hold"),
}


@pytest.mark.parametrize("case", OUTER)
def test_a_signature_file_that_was_touched_is_refused(signed: Path, keys: Path, case: str) -> None:
    change, words = OUTER[case]
    file = json.loads((signed / "model.sig").read_text())
    change(file)
    (signed / "model.sig").write_text(json.dumps(file))
    refused(signed, keys, words)


def _statement(change: Callable[[Json], None]) -> Callable[[str, Any], Json]:
    describe = signatures._describe

    def changed(name: str, found: Any) -> Json:
        made = describe(name, found)
        change(made)
        return made

    return changed


INNER: dict[str, tuple[Callable[[Json], None], str]] = {
    "another statement": (_set("_type", to="https://example.test"), "states"),
    "another predicate": (_set("predicateType", to="https://slsa.dev/provenance/v1"), "states"),
    "files in pieces": (_set("predicate", "serialization", "method", to="shards"), "states"),
    "another hash": (_set("predicate", "serialization", "hash_type", to="md5"), "states"),
    "no files": (_set("predicate", "resources", to=[]), "names a file twice, none"),
    "a file twice": (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "twice"),
    "a file by another hash": (_set("predicate", "resources", 0, "algorithm", to="md5"), "without SHA-256"),
    "a digest that is none": (_set("predicate", "resources", 0, "digest", to="zz"), "no signature in"),
    "another root": (_set("subject", 0, "digest", "sha256", to="0" * 64), "contradicts itself"),
    "no subject": (_set("subject", to=[]), "contradicts itself"),
    "a file that is not there": (
        lambda s: s["predicate"]["resources"].pop() and None,
        "contradicts itself",
    ),
}


@pytest.mark.parametrize("case", INNER)
def test_what_a_trusted_key_signed_must_still_be_about_these_files(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    change, words = INNER[case]
    monkeypatch.setattr(signatures, "_describe", _statement(change))
    sign(signed, keys)
    refused(signed, keys, words)


def test_every_flipped_byte_of_the_payload_and_of_the_signature_is_refused(signed: Path, keys: Path) -> None:
    file = json.loads((signed / "model.sig").read_text())
    envelope = file["dsseEnvelope"]
    for where in (envelope, envelope["signatures"][0]):
        name = "payload" if where is envelope else "sig"
        whole = base64.b64decode(where[name])
        for at in range(0, len(whole), 5 if name == "sig" else 331):
            where[name] = base64.b64encode(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]).decode()
            (signed / "model.sig").write_text(json.dumps(file))
            with pytest.raises(SignatureError):
                trust(keys).verify(signed)
        where[name] = base64.b64encode(whole).decode()


def test_a_stranger_s_signature_is_refused_and_named(signed: Path, keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "stranger")
    by = sign(signed, tmp_path / "stranger").key
    refused(signed, keys, by[:16])
    assert Trust([f"{keys}.pub", f"{tmp_path / 'stranger'}.pub"], required=True).verify(signed).key == by


def test_a_signature_without_a_key_s_name_is_tried_by_every_trusted_key(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    make_keys(tmp_path / "other")
    file = json.loads((signed / "model.sig").read_text())
    file["verificationMaterial"]["publicKey"] = {"rawBytes": "as older signers wrote it"}
    (signed / "model.sig").write_text(json.dumps(file))
    assert Trust([f"{tmp_path / 'other'}.pub", f"{keys}.pub"], required=True).verify(signed).key
    with pytest.raises(SignatureError, match="does not hold"):
        Trust([f"{tmp_path / 'other'}.pub"], required=True).verify(signed)


def test_keys_without_the_requirement_let_unsigned_bundles_in_but_no_broken_signature(signed: Path, keys: Path) -> None:
    relaxed = Trust([f"{keys}.pub"])
    relaxed.load(signed)
    _reauthored(signed)
    with pytest.raises(SignatureError):
        relaxed.load(signed)
    (signed / "model.sig").unlink()
    relaxed.load(signed)


def test_without_keys_nothing_is_verified_and_nothing_can_be_required(signed: Path) -> None:
    _reauthored(signed)
    Trust().load(signed)
    with pytest.raises(SigningKeyError, match="names no public key"):
        Trust(required=True)


def test_what_changes_between_the_signature_s_check_and_the_load_is_found(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(directory: Path, **limits: int) -> Any:
        _reauthored(directory)
        return load_bundle(directory, **limits)

    monkeypatch.setattr(signatures, "load_bundle", late)
    refused(signed, keys, "changed while it was loaded")


def test_links_are_neither_signed_nor_followed(signed: Path, keys: Path) -> None:
    shutil.copy(signed / "head0.onnx", signed.parent / "outside")
    (signed / "head0.onnx").unlink()
    (signed / "head0.onnx").symlink_to(signed.parent / "outside")
    for attempt in (lambda: trust(keys).load(signed), lambda: sign(signed, keys)):
        with pytest.raises(BundleError, match="is a link"):
            attempt()


def test_a_directory_that_is_no_bundle_is_not_signed(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(BundleError, match="missing"):
        sign(tmp_path, keys)
    assert list(tmp_path.iterdir()) == []
