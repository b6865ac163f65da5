"""Names and places: what may be a name, and where a tenant's socket is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.clients.places import endpoint_path, name_fault, runtime_directories


@pytest.mark.parametrize("name", ["a", "A.b-c_1", "x" * 64])
def test_names_that_can_be_paths_and_labels_are_taken(name: str) -> None:
    assert name_fault("tenant", name) is None


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a\0", "a\n", "é", "x" * 65, "a b"])
def test_names_that_could_leave_their_place_are_not(name: str) -> None:
    assert "tenant" in (name_fault("tenant", name) or "")


def test_the_directory_named_by_the_environment_is_the_only_one_looked_at() -> None:
    assert runtime_directories({"DELEN_RUNTIME_DIR": "/d", "XDG_RUNTIME_DIR": "/x"}, 7) == [Path("/d")]
    assert runtime_directories({"XDG_RUNTIME_DIR": "/x"}, 7) == [Path("/x/delen"), Path("/run/delen")]
    assert Path("/tmp/delen-7") in runtime_directories({}, 7)
    assert endpoint_path(Path("/d"), "t") == Path("/d/t/t/sock")
