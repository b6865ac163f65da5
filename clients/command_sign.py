"""`delen sign`: put a signature on a bundle, check one, or make the keys for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exit_codes import CommandFailed, ExitCode
from .tables import count, json_option, print_json, say

if TYPE_CHECKING:
    from ..exits.signatures import Signed


@click.command("sign")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="[BUNDLE]", required=False)
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Private key to sign BUNDLE with.")
@click.option(
    "--check", type=click.Path(path_type=Path), metavar="FILE", help="Public key to check BUNDLE's signature."
)
@click.option("--new-key", type=click.Path(path_type=Path), metavar="FILE", help="Make FILE and FILE.pub.")
@json_option
def sign_command(
    bundle: Path | None, key: Path | None, check: Path | None, new_key: Path | None, as_json: bool
) -> None:
    """Sign BUNDLE, a directory, with a key of your own.

    `BUNDLE/model.sig` then lists every file's SHA-256 under an ECDSA signature in OpenSSF's model signing format. A
    daemon with `require_signature = true` and `trusted_keys = ["/etc/delen/release.pem.pub"]` serves nothing else.
    Keys are elliptic-curve keys in PEM (P-256 where made here) and are never overwritten.
    """
    if new_key is not None and bundle is key is check is None:
        _make(new_key, as_json)
        return
    if bundle is None or new_key is not None or (key is None) == (check is None):
        raise click.UsageError("say BUNDLE with --key FILE to sign or --check FILE to check, or --new-key FILE alone")
    from ..exits import signatures

    if key is not None:
        signed, done = signatures.sign(bundle, key), "signed"
    else:
        signed, done = signatures.Trust([str(check)], required=True).verify(bundle), "as signed"
    _show(bundle, signed, done, as_json)


def _make(path: Path, as_json: bool) -> None:
    from ..exits.signing_keys import fingerprint, make_keys, read_public

    try:
        public = make_keys(path)
    except FileExistsError as error:
        raise CommandFailed(str(error), ExitCode.CANNOT_CREATE) from error
    name = fingerprint(read_public(public))
    if as_json:
        print_json({"private": str(path), "public": str(public), "fingerprint": name})
        return
    say(f"{path}: private, keep it; {public}: public, for `trusted_keys`")
    say(f"fingerprint {name}")


def _show(bundle: Path, signed: Signed, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"directory": str(bundle), "key": signed.key, "files": dict(signed.digests)})
        return
    say(f"{bundle}: {count(len(signed.digests))} files {done} by key {signed.key}")
