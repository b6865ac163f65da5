"""Bringing networks into the daemon: what cannot be served is named before any process starts."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from delen.daemon import hosting
from delen.daemon.config import Config, ConfigError, Limits, TenantConfig
from delen.exits.bundle import BundleError, load_bundle, shipped_directory
from delen.exits.signatures import sign
from delen.exits.signing_keys import make_keys
from delen.profiles.schema import Profile
from delen.tests.sample_profile import changed_device, device, sample_profile

DIGITS = shipped_directory() / "digits"


def saved(folder: Path, profile: Profile) -> str:
    path = folder / "profile.json"
    path.write_bytes(msgspec.json.encode(profile))
    return str(path)


def test_a_shipped_network_is_found_by_name_and_one_of_the_state_directory_before_it(tmp_path: Path) -> None:
    shipped = hosting.host(Config(networks=("digits",)), tmp_path)["digits"]
    assert shipped.bundle.directory == DIGITS
    assert (shipped.need.input_bytes, shipped.need.exit_count, shipped.need.class_count) == (256, 3, 10)
    own = shutil.copytree(DIGITS, tmp_path / "bundles" / "digits")
    assert hosting.host(Config(networks=("digits",)), tmp_path)["digits"].bundle.directory == own


def test_what_cannot_be_hosted_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing-like-it"):
        hosting.host(Config(networks=("nothing-like-it",)), tmp_path)
    with pytest.raises(ConfigError, match="two networks are called 'digits'"):
        hosting.host(Config(networks=("digits", str(DIGITS))), tmp_path)
    with pytest.raises(ConfigError, match=r"limits\.payload_bytes_max is 255"):
        hosting.host(Config(networks=("digits",), limits=Limits(payload_bytes_max=255)), tmp_path)
    tenant = TenantConfig(name="a", networks=("fashion",))
    with pytest.raises(ConfigError, match="tenant 'a' may use 'fashion', which is not served; served: digits"):
        hosting.host(Config(networks=("digits",), tenants=(tenant,)), tmp_path)


def test_the_replay_engine_needs_a_profile_of_each_network_and_no_other(tmp_path: Path) -> None:
    config = Config(networks=("digits",), engine="replay")
    with pytest.raises(ConfigError, match="replay_profiles"):
        hosting.host(config, tmp_path)
    file = saved(tmp_path, sample_profile())
    replayed = msgspec.structs.replace(config, replay_profiles=(file,))
    hosted = hosting.host(replayed, tmp_path)["digits"]
    assert hosted.profile_file == file
    assert hosting.find(hosted, device(), tmp_path, []) == sample_profile()
    other = saved(tmp_path, msgspec.structs.replace(sample_profile(), network="elsewhere"))
    with pytest.raises(ConfigError, match="'elsewhere'"):
        hosting.host(msgspec.structs.replace(replayed, replay_profiles=(other,)), tmp_path)
    older = saved(tmp_path, msgspec.structs.replace(sample_profile(), network_version="0"))
    with pytest.raises(ConfigError, match=r"is a profile of digits 0 with 3 exits; served is .*: replay a profile"):
        hosting.host(msgspec.structs.replace(replayed, replay_profiles=(older,)), tmp_path)


def test_predictions_follow_the_device_as_configured_from_the_profiles_own_spread() -> None:
    profile = sample_profile()
    spread = sum(row[0].p95_us for row in profile.segments) / sum(row[0].p50_us for row in profile.segments)
    static = hosting.follows(Config(correction="static-p95"), profile)
    assert static.factor == pytest.approx(spread)
    # The slowest of the last 1 / miss_target runs.
    seldom, often = (
        hosting.follows(Config(correction="max-of-n", miss_target=share), profile) for share in (0.01, 0.5)
    )
    for ratio in (2.0, 1.0, 1.0):
        seldom.observe(100.0, 100.0 * ratio)
        often.observe(100.0, 100.0 * ratio)
    assert (seldom.factor, often.factor) == pytest.approx((2.0, 1.0))


def test_a_quick_profile_is_kept_for_the_next_start_and_a_stale_one_is_told(tmp_path: Path) -> None:
    hosted = hosting.host(Config(networks=("digits",)), tmp_path)["digits"]
    notes: list[str] = []
    assert hosting.find(hosted, device(), tmp_path, notes) is None
    profile = sample_profile(bundle=hosted.bundle.digest)
    assert hosting.keep(profile, tmp_path) is None
    assert hosting.find(hosted, device(), tmp_path, notes) == profile
    assert notes == []
    elsewhere = changed_device(profile, power_mode="MAXN").device
    assert hosting.find(hosted, elsewhere, tmp_path, notes) == profile
    assert "may not hold" in notes[0]


def test_a_state_directory_that_cannot_be_written_is_told_and_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file is in the way")
    note = hosting.keep(sample_profile(), tmp_path / "state")
    assert note is not None
    assert "digits" in note
    assert str(tmp_path) in note


def test_tenants_and_policies_see_held_out_accuracy_and_gates_over_the_ladder() -> None:
    bundle = load_bundle(DIGITS)
    # On the images this profile was taken on, the last exit looks dominated; the held-out ones say otherwise.
    profile = sample_profile(bundle=bundle.digest, accuracies=(0.85, 0.97, 0.95))
    view = hosting.served(bundle, profile, batch_max=8)
    samples = bundle.calibration()
    assert samples is not None
    assert view.costs.accuracy == pytest.approx(samples.correct[samples.fit].mean(axis=0).tolist())
    assert view.ladder == (0, 1, 2)
    assert view.gates is not None
    told = hosting.info(bundle, profile, view)
    assert [item.dominated for item in told.exits] == [False, False, False]
    assert (told.name, told.shape, told.batch_max, told.engine) == ("digits", bundle.manifest.input.shape, 8, "replay")
    assert told.profile.startswith("full")
    quick = msgspec.structs.replace(profile, quick=True)
    assert hosting.info(bundle, quick, view).profile.startswith("quick")


def test_where_signatures_are_required_only_what_a_trusted_key_signed_is_hosted(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="makes signatures: pip install 'delen[sign]'")
    public = make_keys(tmp_path / "release.pem")
    config = Config(networks=("digits",), require_signature=True, trusted_keys=(str(public),))
    with pytest.raises(BundleError, match="is not signed"):
        hosting.host(config, tmp_path)
    own = Path(shutil.copytree(DIGITS, tmp_path / "bundles" / "digits"))
    sign(own, tmp_path / "release.pem")
    assert hosting.host(config, tmp_path)["digits"].bundle.directory == own
    public.chmod(0o666)
    with pytest.raises(ConfigError, match="others can write it"):
        hosting.host(config, tmp_path)
    with pytest.raises(ConfigError, match="trusted_keys names no public key"):
        hosting.host(Config(networks=("digits",), require_signature=True), tmp_path)


@pytest.mark.parametrize("signed", [False, True])
def test_a_file_too_large_to_be_checked_in_memory_is_refused_before_it_is_there(
    tmp_path: Path, *, signed: bool
) -> None:
    own = shutil.copytree(DIGITS, tmp_path / "digits")
    settings: dict[str, Any] = {}
    if signed:
        key = tmp_path / "key"
        settings = {"trusted_keys": (str(make_keys(key)),), "require_signature": True}
        sign(own, key)
    limits = Limits(bundle_file_bytes_max=16 * 1024**2)
    config = Config(networks=(str(own),), limits=limits, **settings)
    hosting.host(config, tmp_path)
    os.truncate(own / "segment0.onnx", 64 * 1024**2)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"is not what was signed" if signed else r"limits\.bundle_file_bytes_max"):
        hosting.host(config, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    tracemalloc.stop()
