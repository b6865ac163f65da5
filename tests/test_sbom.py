"""The bill of materials: complete, the same every time, and true to the files."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from click.testing import CliRunner

from delen.clients import sbom
from delen.clients.cli import delen
from delen.exits.bundle import load_bundle, shipped_directory
from delen.tests.source_files import pyproject

pytestmark = pytest.mark.slow


Packages = dict[str, sbom.Package]


@pytest.fixture(scope="module")
def packages() -> Packages:
    """What is installed here; read once, since some packages list ten thousand files."""
    return {package.name: package for package in sbom.walk("delen")}


def test_everything_that_delen_cannot_do_without_is_required(packages: Packages) -> None:
    asked = [line for line in pyproject()["project"]["dependencies"] if "python_version" not in line]
    names = {sbom.normal(line.split(">")[0]) for line in asked}
    assert names <= {name for name, package in packages.items() if package.required}
    assert not packages["pytest"].required
    assert "pip" not in packages["delen"].needs


def test_what_an_extra_brings_is_optional_and_what_its_packages_need_is_so_too(packages: Packages) -> None:
    if "onnx" not in packages:
        pytest.skip("onnx is not installed")
    assert not packages["onnx"].required
    assert "protobuf" in packages["onnx"].needs
    assert not packages["protobuf"].required
    assert packages["numpy"].required, "needed by delen itself as well"


def test_libraries_inside_packages_are_listed_by_their_own_bytes(packages: Packages) -> None:
    package = packages["pyzmq"]
    if not package.libraries:
        pytest.skip("pyzmq was built against the system's libraries")
    assert any(library.name.startswith("libzmq") for library in package.libraries)
    files = {file.name: file for file in distribution("pyzmq").files or ()}
    for library in package.libraries:
        found = hashlib.sha256(files[library.name].read_binary()).hexdigest()
        assert library.sha256 == found


def test_the_command_prints_a_document_whose_references_hold() -> None:
    first, second = (CliRunner().invoke(delen, ["sbom", "--json"]).stdout for _ in range(2))
    assert first == second
    made = json.loads(first)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"]["name"] == "delen"
    refs = {made["metadata"]["component"]["bom-ref"], *(part.get("bom-ref") for part in made["components"])}
    for entry in made["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= refs
    models = {part["name"]: part for part in made["components"] if part["type"] == "machine-learning-model"}
    digest = load_bundle(shipped_directory() / "digits").digest
    assert models["digits"]["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_what_is_not_installed_cannot_be_described() -> None:
    with pytest.raises(PackageNotFoundError):
        sbom.walk("delen-of-which-nobody-has-heard")
