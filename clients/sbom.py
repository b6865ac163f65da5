"""What delen is made of, as a CycloneDX document: packages, the libraries inside them, and the networks that ship.

Role: a software bill of materials of this installation, from what the installed packages say of themselves; no network
and no further package. Flow: `walk("delen")` follows requirements through everything that is installed;
`document(...)` spells it as CycloneDX 1.6 (cyclonedx.org). The same installation gives the same bytes: no date and no
random serial number are in it.

Does not: look for vulnerabilities (`make audit` does), or list what is installed but not needed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any, NamedTuple

SPEC = "1.6"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Where the tools that make Linux wheels whole put the libraries they bring along.
_LIBRARY = re.compile(r"[^/]+\.libs/([^/]+\.so[^/]*)$")
_SPDX = re.compile(r"[A-Za-z0-9.+-]+(?: (?:OR|AND|WITH) [A-Za-z0-9.+-]+)*")


class Package(NamedTuple):
    """An installed package. `required`: delen does not start without it; otherwise an extra asked for it."""

    name: str
    version: str
    licence: str
    required: bool
    needs: tuple[str, ...]
    libraries: tuple[Library, ...]


class Library(NamedTuple):
    """A shared library inside a package. Its file's name says a version, but of the interface, not of the release."""

    name: str
    sha256: str


class Network(NamedTuple):
    """A bundle that ships with delen. `digest`: SHA-256 of its manifest, which names every other file's."""

    name: str
    version: str
    licence: str
    digest: str


def walk(root: str) -> list[Package]:
    """The installed packages that `root` needs, itself first, then by name.

    Raises:
        PackageNotFoundError: `root` is not installed.
    """
    start = distribution(root)
    found: dict[str, Distribution] = {normal(root): start}
    required, waiting = {normal(root)}, [(normal(root), True)]
    while waiting:
        name, needed = waiting.pop()
        for other, optional in _requirements(found[name]):
            always = needed and not optional
            known = other in found
            if not known:
                try:
                    found[other] = distribution(other)
                except PackageNotFoundError:
                    continue  # for another system or Python, or an extra that nobody asked for
            if not known or (always and other not in required):
                required |= {other} if always else set()
                waiting.append((other, always))
    packages = [_package(name, made, name in required, found.keys()) for name, made in found.items()]
    return sorted(packages, key=lambda package: (package.name != normal(root), package.name))


def document(packages: list[Package], networks: Iterable[Network] = ()) -> dict[str, Any]:
    """The CycloneDX document about `packages[0]` and all others."""
    root, *others = [_component(package) for package in packages]
    root["type"] = "application"
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {"component": root},
        "components": [*others, *(_model(network) for network in networks)],
        "dependencies": [
            {"ref": _ref(package), "dependsOn": [_ref(other) for other in packages if other.name in package.needs]}
            for package in packages
        ],
    }


def normal(name: str) -> str:
    """A package's name as PyPI compares them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(package: Distribution) -> Iterator[tuple[str, bool]]:
    """Names of what it requires, and whether only an extra does."""
    for line in package.requires or ():
        match = _NAME.match(line)
        if match and "pypy" not in line.lower().partition(";")[2]:
            yield normal(match[0]), "extra ==" in line.replace("extra==", "extra ==")


def _package(name: str, made: Distribution, required: bool, installed: Iterable[str]) -> Package:
    needs = {other for other, _ in _requirements(made)} & set(installed)
    return Package(name, made.version, _licence(made), required, tuple(sorted(needs)), tuple(_libraries(made)))


def _licence(made: Distribution) -> str:
    said = next((line for key in ("License-Expression", "License") for line in made.metadata.get_all(key) or ()), "")
    named = [line.split(" :: ")[-1] for line in made.metadata.get_all("Classifier") or () if line.startswith("License")]
    # Older packages put the whole text there.
    return said if said and len(said) < 100 else ", ".join(named) or "unstated"


def _libraries(made: Distribution) -> Iterator[Library]:
    for file in sorted(made.files or (), key=str):
        match = _LIBRARY.search(str(file))
        if match and file.hash is not None and file.hash.mode == "sha256":
            padded = file.hash.value + "=" * (-len(file.hash.value) % 4)
            yield Library(match[1], base64.urlsafe_b64decode(padded).hex())


def _ref(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def _component(package: Package) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _ref(package),
        "name": package.name,
        "version": package.version,
        "scope": "required" if package.required else "optional",
        "purl": _ref(package),
        "licenses": [_licence_of(package.licence)],
    }
    if package.libraries:
        component["components"] = [
            {
                "type": "library",
                "name": library.name,
                "hashes": [{"alg": "SHA-256", "content": library.sha256}],
            }
            for library in package.libraries
        ]
    return component


def _model(network: Network) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "name": network.name,
        "version": network.version,
        "hashes": [{"alg": "SHA-256", "content": network.digest}],
        "licenses": [_licence_of(network.licence)],
    }


def _licence_of(said: str) -> dict[str, Any]:
    return {"expression": said} if _SPDX.fullmatch(said) and "-" in said else {"license": {"name": said}}
