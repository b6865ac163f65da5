"""The keys that bundles are signed with: made, read and named; nothing secret is ever printed or overwritten.

Role: bare elliptic-curve keys in PEM files, as OpenSSF model signing takes them: P-256 for new ones, P-384 and P-521
are read as well. Flow: `make_keys(path)` -> the private key at `path` (0600, made exclusively), the public one at
`path` with .pub; `read_private`, `read_public` -> keys; `fingerprint` names one.

Does not: ask for passwords, or know what is signed (`signatures.py`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from ..clients.durable import create_whole, read_bounded

KEY_BYTES_MAX = 16 * 1024
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
FORMS = f"elliptic-curve key ({', '.join(CURVES)}) in PEM"


class SigningKeyError(ValueError):
    """A key file that cannot be used; the text says which, why and what to do."""


def make_keys(path: Path) -> Path:
    """A new pair of keys; where the public one is.

    Raises:
        FileExistsError: one of the files is there; keys are never overwritten. OSError: they cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise FileExistsError(f"{public} exists, and keys are never overwritten; choose another name")
    key = ec.generate_private_key(ec.SECP256R1())
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        create_whole(path, private_pem, mode=0o600)
        create_whole(public, public_pem(key.public_key()), mode=0o644)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists, and keys are never overwritten; choose another name") from error
    return public


def read_private(path: Path) -> Any:
    """A private key that nobody but its owner can read. Raises SigningKeyError."""
    from cryptography.hazmat.primitives import serialization

    data = _read(path, 0o077, "read")
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise SigningKeyError(f"{path} is locked with a password; expected one without, readable only by you") from None
    except ValueError:
        raise SigningKeyError(f"{path} holds no private {FORMS}; make one with `delen sign --new-key FILE`") from None
    _check_curve(key, path)
    return key


def read_public(path: Path) -> Any:
    """A public key that nobody but its owner can replace. Raises SigningKeyError."""
    from cryptography.hazmat.primitives import serialization

    data = _read(path, 0o022, "write")
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError:
        raise SigningKeyError(
            f"{path} holds no public {FORMS}; `delen sign --new-key` makes a .pub beside it"
        ) from None
    _check_curve(key, path)
    return key


def public_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def fingerprint(public: Any) -> str:
    """What a key is called: SHA-256 of its PEM form, hex, as OpenSSF model signing names it."""
    return hashlib.sha256(public_pem(public)).hexdigest()


def curve_hash(key: Any) -> Any:
    """How a key of this curve hashes what it signs."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, CURVES[key.curve.name])())


def _check_curve(key: Any, path: Path) -> None:
    curve = getattr(key, "curve", None)
    if curve is None or curve.name not in CURVES:
        raise SigningKeyError(f"{path} holds another kind of key; expected an {FORMS}")


def _read(path: Path, forbidden: int, verb: str) -> bytes:
    try:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        data = read_bounded(path, KEY_BYTES_MAX)
    except OSError as error:
        raise SigningKeyError(f"{path} cannot be read: {error.strerror}") from error
    if mode & forbidden:
        raise SigningKeyError(
            f"{path} has mode {mode:03o}: others can {verb} it; `chmod {mode & ~forbidden:03o} {path}`, and if it may "
            "have happened, make new keys"
        )
    return data
