"""What SECURITY.md and THREAT_MODEL.md point to is there, and the numbers they give are the tests' own."""

from __future__ import annotations

import re

import pytest

from delen.clients.cli import COMMANDS
from delen.daemon.config import Config
from delen.daemon.rights import TenantConfig
from delen.tests import hostile_files, hostile_graphs
from delen.tests.source_files import ROOT

pytestmark = pytest.mark.house

DOCUMENTS = ("SECURITY.md", "THREAT_MODEL.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_named_is_there(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    named = re.findall(r"`([a-z_]+/[A-Za-z_.]+\.(?:py|md))`|\]\(([A-Z_]+\.md)\)", text)
    files = [one or other for one, other in named]
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_command_and_setting_named_exists() -> None:
    text = "".join((ROOT / name).read_text("utf-8") for name in DOCUMENTS)
    assert set(re.findall(r"`delen ([a-z-]+)", text)) - COMMANDS.keys() == set()
    settings = re.findall(r"`([a-z_]+) = ", text)
    assert set(settings) - {*Config.__struct_fields__, *TenantConfig.__struct_fields__} == set()


def test_the_corpus_has_the_size_that_is_claimed() -> None:
    claimed = re.search(r"hostile bundles, (\d+) cases", (ROOT / "THREAT_MODEL.md").read_text("utf-8"))
    tables = (hostile_graphs.GRAPHS, hostile_files.PLACES, hostile_files.NAMES, hostile_files.CALIBRATIONS)
    assert claimed is not None
    assert sum(map(len, tables)) >= int(claimed[1])
