"""`delen sbom`: a bill of materials of this installation, for whoever has to answer for it."""

from __future__ import annotations

import click

from .tables import Column, json_option, print_json, print_table


@click.command("sbom")
@json_option
def sbom_command(as_json: bool) -> None:
    """Print what delen is made of here: packages as they are installed, and the networks that ship.

    With --json a CycloneDX document, with the libraries inside packages as well.
    """
    from ..exits.bundle import load_bundle, shipped_directory
    from . import sbom

    bundles = [load_bundle(path.parent) for path in sorted(shipped_directory().glob("*/network.toml"))]
    networks = [
        sbom.Network(bundle.manifest.name, bundle.manifest.version, bundle.manifest.licence, bundle.digest)
        for bundle in bundles
    ]
    packages = sbom.walk("delen")
    if as_json:
        print_json(sbom.document(packages, networks))
        return
    rows = [
        {
            "name": one.name,
            "version": one.version,
            "licence": one.licence[:60],
            "for": "all" if one.required else "extra",
        }
        for one in packages
    ]
    rows += [{"name": one.name, "version": one.version, "licence": one.licence, "for": "network"} for one in networks]
    print_table(rows, [Column(name, name) for name in ("name", "version", "licence", "for")], "delen is made of")
