"""Whose a bundle is: `model.sig`, a signature over every file of it, and the door that lets in only trusted bundles.

Role: OpenSSF model signing (OMS 1.0) with bare keys, offline: a Sigstore bundle, in it a DSSE envelope, in it an
in-toto statement that lists every file's SHA-256. Done here and not with the `model-signing` package, which brings
some thirty others for a network service that an edge device does not ask. What that package signs with a key verifies
here.
Flow: `sign(directory, key)` writes `model.sig`; the daemon's `Trust(...).load(directory)` verifies before anything else
is parsed, loads the bundle, and holds what was loaded against what was signed.
Sources: github.com/ossf/model-signing-spec, github.com/secure-systems-lab/dsse, docs.sigstore.dev/about/bundle.

Does not: ask any transparency log or certificate authority; know keys beyond those it is given (`signing_keys.py`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from ..clients.durable import write_whole
from .bundle import FILE_BYTES_MAX, MANIFEST, SIGNATURE, Bundle, BundleError, hash_plain, load_bundle, read_plain
from .signing_keys import SigningKeyError, curve_hash, fingerprint, read_private, read_public

SIGNATURE_BYTES_MAX = 1024 * 1024
FILES_MAX, DEPTH_MAX, KEYS_MAX = 2000, 3, 64
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_Kind = TypeVar("_Kind")
_HEX = re.compile(r"[0-9a-f]{64}")
_Digest = Annotated[str, msgspec.Meta(pattern=f"^{_HEX.pattern}$")]


class SignatureError(BundleError):
    """A bundle that is not signed as it has to be: what was found, what was expected, what to do."""


class Resource(msgspec.Struct, frozen=True):
    """One file: its path from the bundle's directory, and SHA-256."""

    name: str
    algorithm: str
    digest: _Digest


class Subject(msgspec.Struct, frozen=True):
    name: str
    digest: dict[str, str]


class Predicate(msgspec.Struct, frozen=True):
    """`serialization`: how files were hashed; `resources`: the files, in order of their names."""

    serialization: dict[str, Any]
    resources: Annotated[tuple[Resource, ...], msgspec.Meta(max_length=FILES_MAX)]


class Statement(msgspec.Struct, frozen=True):
    """What is signed."""

    type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Predicate


class _Signature(msgspec.Struct, frozen=True):
    sig: str
    keyid: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[_Signature, ...]


class _Key(msgspec.Struct, frozen=True):
    hint: str = ""


class _Material(msgspec.Struct, frozen=True):
    key: _Key = msgspec.field(name="publicKey")


class _File(msgspec.Struct, frozen=True):
    media_type: str = msgspec.field(name="mediaType")
    material: _Material = msgspec.field(name="verificationMaterial")
    envelope: _Envelope = msgspec.field(name="dsseEnvelope")


class Signed(NamedTuple):
    """Who signed, by the key's fingerprint, and every file's SHA-256 by its path."""

    key: str
    digests: Mapping[str, str]


class Trust:
    """The public keys an operator trusts. `required`: a bundle without a signature is refused.

    A signature that is there must hold in any case; without keys there is nothing to hold it against.

    Raises:
        SigningKeyError: a key cannot be used, or signatures are required and there is no key.
    """

    def __init__(self, key_files: Sequence[str] = (), *, required: bool = False) -> None:
        if required and not key_files:
            raise SigningKeyError("require_signature is set, but trusted_keys names no public key")
        if len(key_files) > KEYS_MAX:
            raise SigningKeyError(f"trusted_keys names {len(key_files)} keys; at most {KEYS_MAX} are read")
        keys = [read_public(Path(file)) for file in key_files]
        self._keys = {fingerprint(key): key for key in keys}
        self.required = required

    def load(self, directory: Path, *, file_bytes_max: int = FILE_BYTES_MAX) -> Bundle:
        """Load a bundle that is signed by a trusted key, if any has to be; checked completely in either case.

        Raises:
            SignatureError: unsigned, signed by somebody else, or not what was signed. BundleError: see `load_bundle`.
        """
        directory = directory.absolute()
        if not self._keys or not (self.required or os.path.lexists(directory / SIGNATURE)):
            return load_bundle(directory, file_bytes_max=file_bytes_max)
        signed = self.verify(directory)
        bundle = load_bundle(directory, file_bytes_max=file_bytes_max)
        # Files may have changed since they were hashed for the signature: what counts is what was loaded.
        loaded = {MANIFEST: bundle.digest, **bundle.manifest.hashes()}
        for file, digest in loaded.items():
            if signed.digests.get(file) != digest:
                raise SignatureError(f"{directory / file} changed while it was loaded; install the bundle again")
        return bundle

    def verify(self, directory: Path) -> Signed:
        """Check a bundle's signature and that every file is as signed. Nothing of the bundle is parsed.

        Raises:
            SignatureError: see `load`. BundleError: a file cannot be read, or is no plain file.
        """
        directory = directory.absolute()
        path = directory / SIGNATURE
        if not os.path.lexists(path):
            raise SignatureError(
                f"{directory} is not signed, and require_signature is set; sign it with `delen sign {directory} "
                "--key FILE` if it is yours, or ask whom it is from"
            )
        file = _decoded(read_plain(directory, SIGNATURE, SIGNATURE_BYTES_MAX), _File, path)
        if file.media_type != MEDIA_TYPE or len(file.envelope.signatures) != 1:
            raise SignatureError(f"{path} is {file.media_type[:80]!r}; expected {MEDIA_TYPE} with one signature")
        key = self._signer(file, path)
        statement = _statement(file.envelope, path)
        signed = {resource.name: resource.digest for resource in statement.predicate.resources}
        _compare(directory, signed, digests(directory))
        return Signed(key, signed)

    def _signer(self, file: _File, path: Path) -> str:
        """The fingerprint of the trusted key whose signature it is."""
        from cryptography.exceptions import InvalidSignature

        hint = file.material.key.hint
        known = ", ".join(name[:16] for name in self._keys)
        if hint and hint not in self._keys:
            raise SignatureError(f"{path} is by key {hint[:16]!r}; trusted are {known}: is trusted_keys complete?")
        envelope = file.envelope
        message, signature = _pae(_bytes(envelope.payload, path)), _bytes(envelope.signatures[0].sig, path)
        for name in [hint] if hint else self._keys:
            key = self._keys[name]
            try:
                key.verify(signature, message, curve_hash(key))
            except InvalidSignature:
                continue
            return name
        raise SignatureError(f"{path} does not hold by key {hint[:16] or known}; it was damaged or forged")


def sign(directory: Path, key_file: Path) -> Signed:
    """Sign a bundle as it lies there: checked first, then every file is hashed and `model.sig` written.

    Raises:
        BundleError: it is no bundle that would load. SigningKeyError: the key cannot be used.
        OSError: the signature cannot be written; an older one still stands.
    """
    directory = directory.absolute()
    key = read_private(key_file)
    bundle = load_bundle(directory)
    found = digests(directory)
    if found[MANIFEST] != bundle.digest:
        raise SignatureError(f"{directory / MANIFEST} changed while it was read; sign it again")
    payload = json.dumps(_describe(bundle.manifest.name, found), indent=1).encode()
    signature = key.sign(_pae(payload), curve_hash(key))
    name = fingerprint(key.public_key())
    file = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": name}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    write_whole(directory / SIGNATURE, json.dumps(file).encode())
    return Signed(name, found)


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle but its signature, by path, in order. Raises BundleError."""
    found: dict[str, str] = {}
    for file in sorted(_files(directory, "", 0)):
        if file == SIGNATURE:
            continue
        if len(found) == FILES_MAX:
            raise SignatureError(f"{directory} holds more than {FILES_MAX} files; expected a bundle")
        found[file] = hash_plain(directory, file)
    return found


def _files(directory: Path, inside: str, depth: int) -> list[str]:
    if depth > DEPTH_MAX:
        raise SignatureError(f"{directory / inside} lies too deep; expected a bundle")
    try:
        entries = sorted(os.scandir(directory / inside), key=lambda entry: entry.name)
    except OSError as error:
        raise SignatureError(f"{directory / inside} cannot be read: {error.strerror}") from error
    found = []
    for entry in entries:
        name = f"{inside}{entry.name}"
        found += _files(directory, f"{name}/", depth + 1) if entry.is_dir(follow_symlinks=False) else [name]
    return found


def _describe(name: str, found: Mapping[str, str]) -> dict[str, Any]:
    """The statement about these files, as OMS 1.0 has it."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(found.values())}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": file, "algorithm": "sha256", "digest": digest} for file, digest in found.items()],
        },
    }


def _statement(envelope: _Envelope, path: Path) -> Statement:
    """The signed statement, if it is one about files; called only once its signature holds."""
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SignatureError(f"{path} is about {envelope.payload_type[:80]!r}; expected {PAYLOAD_TYPE}")
    statement = _decoded(_bytes(envelope.payload, path), Statement, path)
    how, resources = statement.predicate.serialization, statement.predicate.resources
    kind = (statement.type, statement.predicate_type, how.get("method"), how.get("hash_type"))
    if kind != (STATEMENT_TYPE, PREDICATE_TYPE, "files", "sha256"):
        raise SignatureError(f"{path} states {kind!s:.200}; expected {PREDICATE_TYPE} over files with sha256")
    names = [resource.name for resource in resources]
    if len(set(names)) != len(names) or {resource.algorithm for resource in resources} != {"sha256"}:
        raise SignatureError(f"{path} names a file twice, none, or one without SHA-256")
    roots = [subject.digest.get("sha256") for subject in statement.subject]
    if roots != [_root(resource.digest for resource in resources)]:
        raise SignatureError(f"{path} contradicts itself: its digest is not that of the files it lists")
    return statement


def _compare(directory: Path, signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    for file in sorted(signed.keys() | found.keys()):
        if file not in signed:
            raise SignatureError(f"{directory / file} is not among the signed files; remove it, or sign again")
        if file not in found:
            raise SignatureError(f"{directory / PurePosixPath(file).name} is signed, but missing; install it again")
        if signed[file] != found[file]:
            raise SignatureError(f"{directory / file} is not what was signed; it was damaged or changed: install again")


def _root(values: Any) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(value) for value in values)).hexdigest()


def _pae(payload: bytes) -> bytes:
    """What is signed in an envelope: type and payload with their lengths (DSSE's pre-authentication encoding)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _bytes(text: str, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"{path} is damaged: {error}") from error


def _decoded(data: bytes, kind: type[_Kind], path: Path) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureError(f"{path} is no signature in OpenSSF's form: {error}") from error
