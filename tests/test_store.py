"""Profiles are found by what they were measured on, never half written, and never passed over when corrupt."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from delen.exits.bundle import Bundle, find_bundle, load_bundle, shipped_directory
from delen.profiles.clocked import at_clock, gpu_khz
from delen.profiles.schema import Profile, ProfileError, read_profile
from delen.profiles.store import (
    find_profile,
    misfits,
    profile_path,
    profiles_of,
    staleness,
    state_directory,
    write_profile,
)
from delen.tests.sample_profile import changed_device, device, sample_profile


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(find_bundle("digits", [shipped_directory()]))


def _profile(bundle: Bundle, taken: str = "2025-01-01T00:00:00+00:00", *, quick: bool = False) -> Profile:
    profile = sample_profile(bundle=bundle.digest)
    return msgspec.structs.replace(profile, taken_wall=taken, quick=quick)


def test_what_was_written_is_found(tmp_path: Path, bundle: Bundle) -> None:
    path = write_profile(tmp_path, _profile(bundle))
    assert path.parent == tmp_path / "profiles" / "digits"
    found = find_profile(tmp_path, bundle, device())
    assert found == (_profile(bundle), path, "")


def test_nothing_is_found_where_nothing_is(tmp_path: Path, bundle: Bundle) -> None:
    assert find_profile(tmp_path / "absent", bundle, device()) is None


@pytest.mark.parametrize(
    "changes",
    [{"board": "b"}, {"processor": "b"}, {"engine": "b"}, {"device": "cuda"}, {"precision": "fp16"}, {"threads": 2}],
)
def test_another_device_is_not_ours(tmp_path: Path, bundle: Bundle, changes: dict[str, object]) -> None:
    write_profile(tmp_path, changed_device(_profile(bundle), **changes))
    assert find_profile(tmp_path, bundle, device()) is None


def test_another_bundle_is_not_ours(tmp_path: Path, bundle: Bundle) -> None:
    write_profile(tmp_path, sample_profile(bundle="f" * 64))
    assert find_profile(tmp_path, bundle, device()) is None


def test_profiles_at_several_clocks_lie_beside_one_another(tmp_path: Path, bundle: Bundle) -> None:
    for khz in (420_000, 900_000):
        profile = _profile(bundle)
        write_profile(tmp_path, msgspec.structs.replace(profile, device=at_clock(profile.device, khz)))
    assert {gpu_khz(profile.device) for profile in profiles_of(tmp_path, bundle, device())} == {420_000, 900_000}
    found = find_profile(tmp_path, bundle, at_clock(device(), 420_000))
    assert found is not None
    assert (gpu_khz(found.profile.device), found.stale) == (420_000, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network_version": "9"}, "it is of digits 9, served is"),
        ({"bundle": "f" * 64}, "it is of another bundle of digits"),
    ],
)
def test_a_profile_of_something_else_says_of_what(
    tmp_path: Path, bundle: Bundle, changes: dict[str, object], said: str
) -> None:
    version = {"network_version": bundle.manifest.version}
    path = write_profile(tmp_path, msgspec.structs.replace(_profile(bundle), **{**version, **changes}))
    [why] = misfits(tmp_path, bundle, device())
    assert why.startswith(f"profile {path} is not used: {said}")


def test_a_profile_of_another_board_says_of_which(tmp_path: Path, bundle: Bundle) -> None:
    profile = msgspec.structs.replace(_profile(bundle), network_version=bundle.manifest.version)
    write_profile(tmp_path, changed_device(profile, board="Jetson Nano", threads=4))
    [why] = misfits(tmp_path, bundle, device())
    assert "its board is Jetson Nano, here it is test board; its number of threads is 4, here it is 1" in why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"power_mode": "7W"}, "power mode was 7W, is 15W"),
        ({"power_mode": None}, "power mode was unknown, is 15W"),
        ({"clocks_khz": {"cpu0": 1, "cpu0_max": 960_000}}, "cpu0 was limited to 960 MHz, is to 1510.4 MHz"),
        ({"cores": 4}, "4 cores then, 2 now"),
        ({"versions": {"replay": "0"}}, "replay was 0, is 1"),
    ],
)
def test_changed_settings_are_found_but_stale(
    tmp_path: Path, bundle: Bundle, changes: dict[str, object], said: str
) -> None:
    write_profile(tmp_path, changed_device(_profile(bundle), **changes))
    found = find_profile(tmp_path, bundle, device())
    assert found is not None
    assert found.stale == said


def test_clocks_of_the_moment_do_not_matter() -> None:
    now = msgspec.structs.replace(device(), clocks_khz={"cpu0": 1, "cpu0_max": 1_510_400})
    assert staleness(device(), now) == ""


def test_current_goes_before_full_and_full_before_new(tmp_path: Path, bundle: Bundle) -> None:
    old_full = changed_device(_profile(bundle, "2025-01-01T00:00:00+00:00"), versions={"replay": "1", "numpy": "2"})
    new_quick = _profile(bundle, "2025-02-01T00:00:00+00:00", quick=True)
    other_mode = changed_device(_profile(bundle, "2025-03-01T00:00:00+00:00"), power_mode="7W")
    for profile in (new_quick, other_mode):
        write_profile(tmp_path, profile)
    assert _chosen(tmp_path, bundle) == new_quick, "a quick one of this power mode beats a full one of another"
    (tmp_path / "profiles/digits/by-hand.json").write_bytes(msgspec.json.encode(old_full))
    assert _chosen(tmp_path, bundle) == new_quick, "its engine has changed since"
    full = changed_device(old_full, versions={"replay": "1"})
    (tmp_path / "profiles/digits/by-hand.json").write_bytes(msgspec.json.encode(full))
    assert _chosen(tmp_path, bundle) == full, "an older one measured in full beats a quick one"
    newer = msgspec.structs.replace(full, taken_wall="2025-04-01T00:00:00+00:00")
    (tmp_path / "profiles/digits/newer.json").write_bytes(msgspec.json.encode(newer))
    assert _chosen(tmp_path, bundle) == newer


def _chosen(state: Path, bundle: Bundle) -> Profile:
    found = find_profile(state, bundle, device())
    assert found is not None
    return found.profile


def test_a_new_measurement_replaces_the_old_one_and_power_modes_live_side_by_side(
    tmp_path: Path, bundle: Bundle
) -> None:
    first = write_profile(tmp_path, _profile(bundle))
    assert write_profile(tmp_path, _profile(bundle, "2026-01-01T00:00:00+00:00")) == first
    assert write_profile(tmp_path, changed_device(_profile(bundle), power_mode="7W")) != first


def test_the_bundles_own_profiles_come_second(tmp_path: Path, bundle: Bundle) -> None:
    shipped = Bundle(tmp_path / "bundle", bundle.manifest, bundle.digest)
    (tmp_path / "bundle/profiles").mkdir(parents=True)
    theirs = _profile(bundle, "2026-01-01T00:00:00+00:00")
    (tmp_path / "bundle/profiles/orin.json").write_bytes(msgspec.json.encode(theirs))
    assert _chosen(tmp_path / "state", shipped) == theirs
    ours = _profile(bundle, "2025-01-01T00:00:00+00:00")
    write_profile(tmp_path / "state", ours)
    assert _chosen(tmp_path / "state", shipped) == ours


def test_a_corrupt_profile_is_named_not_passed_over(tmp_path: Path, bundle: Bundle) -> None:
    good = write_profile(tmp_path, _profile(bundle))
    (good.parent / "z-corrupt.json").write_bytes(good.read_bytes()[:100])
    with pytest.raises(ProfileError, match=r"z-corrupt\.json is not a profile.*`delen profile`"):
        find_profile(tmp_path, bundle, device())


def test_a_damaged_profile_that_delen_wrote_is_found_from_its_copy(tmp_path: Path, bundle: Bundle) -> None:
    path = write_profile(tmp_path, _profile(bundle))
    whole = path.read_bytes()
    for damaged in (whole[:100], whole.replace(b"1", b"2", 1), b""):
        path.write_bytes(damaged)
        assert find_profile(tmp_path, bundle, device()) == (_profile(bundle), path, "")
    os.truncate(path, 17 * 1024 * 1024)
    assert find_profile(tmp_path, bundle, device()) == (_profile(bundle), path, "")


@pytest.mark.parametrize("where", ["state", "bundle"])
def test_an_enormous_file_or_a_link_is_refused_unread(tmp_path: Path, bundle: Bundle, where: str) -> None:
    ours = Bundle(tmp_path / "bundle", bundle.manifest, bundle.digest)
    path = tmp_path / {"state": "state/profiles/digits", "bundle": "bundle/profiles"}[where] / "x.json"
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, 17 * 1024 * 1024)
    with pytest.raises(ProfileError, match="more than 16777216 bytes"):
        find_profile(tmp_path / "state", ours, device())
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(ProfileError, match="symbolic links"):
        find_profile(tmp_path / "state", ours, device())


def test_a_profile_that_could_not_be_read_again_is_not_written(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(ProfileError, match="will not write"):
        write_profile(tmp_path, msgspec.structs.replace(_profile(bundle), batches=(2,)))
    assert not (tmp_path / "profiles").exists()


@pytest.mark.parametrize("failing", ["fsync", "write", "open", "replace"])
def test_a_full_disk_leaves_the_old_profile_and_no_rubbish(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    old = _profile(bundle)
    path = write_profile(tmp_path, old)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(ProfileError, match=r"cannot write profile .*No space left on device; make room"):
        write_profile(tmp_path, _profile(bundle, "2026-01-01T00:00:00+00:00"))
    monkeypatch.undo()
    assert read_profile(path) == old
    assert list(path.parent.iterdir()) == [path]


def test_a_file_half_written_by_a_crash_is_passed_over(tmp_path: Path, bundle: Bundle) -> None:
    path = write_profile(tmp_path, _profile(bundle))
    (path.parent / f".{path.name}.123").write_bytes(b"{")
    (path.parent / ".half.json").write_bytes(b"{")
    assert find_profile(tmp_path, bundle, device()) is not None


def test_names_of_engines_never_become_directories(tmp_path: Path, bundle: Bundle) -> None:
    odd = changed_device(_profile(bundle), engine="../../etc", device="a/b\0c")
    assert profile_path(tmp_path, odd).parent == tmp_path / "profiles" / "digits"


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"DELEN_STATE_DIR": "/a", "STATE_DIRECTORY": "/b", "XDG_STATE_HOME": "/c"}, 7, "/a"),
        ({"STATE_DIRECTORY": "/b:/x", "XDG_STATE_HOME": "/c"}, 7, "/b"),
        ({"XDG_STATE_HOME": "/c", "HOME": "/h"}, 7, "/c/delen"),
        ({"HOME": "/h", "XDG_STATE_HOME": ""}, 7, "/h/.local/state/delen"),
        ({}, 7, "/tmp/delen-state-7"),
    ],
)
def test_where_state_is_kept(environ: dict[str, str], uid: int, expected: str) -> None:
    assert state_directory(environ, uid) == Path(expected)


def test_a_flag_goes_first_and_root_uses_the_systems_where_it_is(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": "/c"}
    assert state_directory({"DELEN_STATE_DIR": "/a"}, 0, flag=Path("/f")) == Path("/f")
    assert state_directory(environ, 0, system=tmp_path) == tmp_path
    assert state_directory(environ, 0, system=tmp_path / "absent") == Path("/c/delen")
    assert state_directory(environ, 7, system=tmp_path) == Path("/c/delen"), "a user's things stay the user's"
