"""Signing keys: made once and privately, read only where nobody else could have had a hand in them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from delen.exits.signing_keys import SigningKeyError, fingerprint, make_keys, public_pem, read_private, read_public

pytest.importorskip("cryptography", reason="makes signatures: pip install 'delen[sign]'")


def test_a_pair_is_made_private_and_never_overwritten(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "release.pem")
    assert public == tmp_path / "release.pem.pub"
    assert stat.S_IMODE((tmp_path / "release.pem").stat().st_mode) == 0o600
    assert fingerprint(read_public(public)) == fingerprint(read_private(tmp_path / "release.pem").public_key())
    before = (tmp_path / "release.pem").read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        make_keys(tmp_path / "release.pem")
    public.unlink()
    with pytest.raises(FileExistsError, match="never overwritten"):
        make_keys(tmp_path / "release.pem")
    assert (tmp_path / "release.pem").read_bytes() == before
    assert not public.exists()


def test_a_public_file_holds_nothing_secret(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "k")
    assert b"PRIVATE" not in public.read_bytes()
    assert public.read_bytes() == public_pem(read_public(public))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
def test_a_private_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    make_keys(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(SigningKeyError, match="others can read it; `chmod 600"):
        read_private(tmp_path / "k")


def test_a_public_key_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "k")
    public.chmod(0o664)
    with pytest.raises(SigningKeyError, match="others can write it; `chmod 644"):
        read_public(public)


def test_links_and_files_that_are_no_keys_are_refused(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "k")
    (tmp_path / "link").symlink_to(public)
    (tmp_path / "long").write_bytes(b"-" * 20_000)
    (tmp_path / "words").write_text("ssh-ed25519 AAAA somebody")
    (tmp_path / "words").chmod(0o600)
    for name in ("link", "long", "words", "nowhere"):
        with pytest.raises(SigningKeyError):
            read_public(tmp_path / name)
    with pytest.raises(SigningKeyError, match="no private"):
        read_private(tmp_path / "words")
    with pytest.raises(SigningKeyError, match="no public"):
        read_public(tmp_path / "k")


def test_keys_of_other_kinds_and_locked_ones_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"secret")
    plain = serialization.NoEncryption()
    keys = {
        "ed25519": (ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, plain), "another kind"),
        "secp256k1": (ec.generate_private_key(ec.SECP256K1()).private_bytes(pem, pkcs8, plain), "another kind"),
        "locked": (ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, locked), "password"),
    }
    for name, (data, words) in keys.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(SigningKeyError, match=words):
            read_private(tmp_path / name)
