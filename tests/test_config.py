"""The configuration: which source wins, and that a mistake is named with its key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_type_hints

import pytest

from delen.daemon.config import Config, ConfigError, Limits, load_config, unread_variables

TENANT = '[[tenants]]\nname = "a"\n'


def load(text: str | None, folder: Path, environ: dict[str, str] | None = None, **flags: object) -> Config:
    path = None
    if text is not None:
        path = folder / "delen.toml"
        path.write_text(text)
    return load_config(path, flags, environ or {}, uid=1000)


def fault(text: str | None, folder: Path, environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, folder, environ, **flags)
    return str(caught.value)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    assert load(TENANT, tmp_path).threads == 1
    text = "threads = 2\n" + TENANT
    assert load(text, tmp_path).threads == 2
    assert load(text, tmp_path, {"DELEN_THREADS": "3"}).threads == 3
    assert load(text, tmp_path, {"DELEN_THREADS": "3"}, threads=4).threads == 4
    assert load(text, tmp_path, {"DELEN_THREADS": "3"}, threads=None).threads == 3, "a flag not given says nothing"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("thread = 1\n" + TENANT, "thread"),
        (TENANT + "[limits]\nqueue_max = 3\n", "queue_max"),
        (TENANT + "sees-all = true\n", "sees-all"),
        ('threads = "many"\n' + TENANT, "threads"),
        ('engine = "onyx"\n' + TENANT, "engine"),
        (TENANT + "[limits]\nqueued_max = 0\n", "limits.queued_max"),
        (TENANT + "[limits]\nretries_max = -1\n", "limits.retries_max"),
        (TENANT + "[limits]\nrun_factor_max = nan\n", "limits.run_factor_max"),
        (TENANT + "[limits]\nrun_factor_max = inf\n", "limits.run_factor_max"),
        (TENANT + "[limits]\nqueued_max = 1.5\n", "queued_max"),
        ("threads = 0\n" + TENANT, "threads"),
        ("watts = -5.0\n" + TENANT, "watts"),
        ("watts = nan\n" + TENANT, "watts"),
        ("networks = []\n" + TENANT, "networks"),
        ("ahead_us = -1\n" + TENANT, "ahead_us"),
        ("clock_switch_us = -1\n" + TENANT, "clock_switch_us"),
        ("clock_dwell_ms = -1\n" + TENANT, "clock_dwell_ms"),
        ('policy = "fifo"\n' + TENANT, "fifo"),
        (TENANT + "[policy_options]\nspare_part = 0.5\n", "spare_part"),
        ('correction = "kalman"\n' + TENANT, "kalman"),
        ("miss_target = 1.0\n" + TENANT, "miss_target"),
    ],
)
def test_a_key_that_is_unknown_or_wrong_is_named(text: str, key: str, tmp_path: Path) -> None:
    said = fault(text, tmp_path)
    assert key in said
    assert "delen.toml" in said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DELEN_THREADS", "many", "threads"),
        ("DELEN_THREADS", "0", "threads is 0"),
        ("DELEN_ENGINE", "tpu", "expected one of onnx, torch, tensorrt, replay"),
        ("DELEN_POLICY", "fifo", "expected one of clock, clockwork"),
        ("DELEN_RUNTIME_DIR", "/" + "x" * 100, "runtime_dir"),
    ],
)
def test_a_wrong_value_in_the_environment_is_named_with_its_variable(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    text = fault(TENANT, tmp_path, {"DELEN_WATTS": "5", variable: value})
    assert text.startswith(f"{variable}='{value}': ")
    assert said in text
    assert "delen.toml" not in text


def test_a_wrong_value_is_blamed_on_who_said_it(tmp_path: Path) -> None:
    environ = {"DELEN_THREADS": "3"}
    assert fault("threads = 0\n" + TENANT, tmp_path).startswith(f"{tmp_path}")
    assert fault("watts = -1.0\n" + TENANT, tmp_path, environ).startswith(f"{tmp_path}")
    assert fault(TENANT, tmp_path, environ, threads=0).startswith("threads is 0")


@pytest.mark.parametrize(
    ("text", "words"), [('engine = "tpu"', "onnx, torch, tensorrt, replay"), ('profile = "slow"', "quick, require")]
)
def test_what_there_is_to_choose_from_is_said(tmp_path: Path, text: str, words: str) -> None:
    assert f"expected one of {words}" in fault(f"{text}\n{TENANT}", tmp_path)


def test_what_there_is_to_choose_from_is_said_within_a_tenant_and_at_its_line(tmp_path: Path) -> None:
    said = fault(f'{TENANT}adaptation = {{ policy = "batery" }}\n', tmp_path)
    assert "expected one of none, fixed, conditions, alert, battery, load" in said
    line = f"{TENANT}x".count("\n") + 1
    said = fault(f'{TENANT}adaptation = {{ policy = "battery", enrgy_j = 5.0 }}\n', tmp_path)
    assert f"delen.toml:{line}: " in said
    assert "enrgy_j" in said


@pytest.mark.parametrize(
    ("engine", "device", "words"),
    [
        ("torch", "gpu", "device is 'gpu'; expected auto, cpu, cuda"),
        ("onnx", "cuda", "engine onnx runs on the processor; for the GPU take torch or tensorrt"),
        ("tensorrt", "cpu", "engine tensorrt runs on a GPU"),
    ],
)
def test_a_device_that_the_engine_never_runs_on_is_refused(
    engine: str, device: str, words: str, tmp_path: Path
) -> None:
    assert words in fault(f'engine = "{engine}"\ndevice = "{device}"\n{TENANT}', tmp_path)


def test_variables_that_look_like_settings_and_are_none_are_found() -> None:
    environ = {
        "DELEN_THREADS": "1",
        "DELEN_CONFIG": "x",
        "DELEN_TREADS": "1",
        "DELEN_LIMITS_QUEUED_MAX": "9",
        "HOME": "/",
    }
    near, far = unread_variables(environ)[::-1]
    assert near == "DELEN_TREADS is not read; variables that are: DELEN_THREADS"
    assert far.startswith("DELEN_LIMITS_QUEUED_MAX is not read; ")


def test_a_policy_is_chosen_by_name_with_its_own_options(tmp_path: Path) -> None:
    assert load(TENANT, tmp_path).policy == "stage-edf"
    text = 'policy = "stage-edf"\n' + TENANT + "[policy_options]\nspare_share = 0.8\n"
    assert load(text, tmp_path).policy_options == {"spare_share": 0.8}
    assert load(TENANT, tmp_path, {"DELEN_POLICY": "latency-first"}).policy == "latency-first"
    assert load(TENANT, tmp_path, policy="latency-first").policy == "latency-first"
    said = fault(TENANT, tmp_path, policy="fifo")
    assert "stage-edf" in said, "what there is to choose from is said"


def test_no_retries_is_a_choice(tmp_path: Path) -> None:
    assert load(TENANT + "[limits]\nretries_max = 0\n", tmp_path).limits.retries_max == 0


def test_tenants_must_be_named_once_each_and_fit_into_a_socket_path(tmp_path: Path) -> None:
    assert "--tenant" in fault("", tmp_path)
    assert "twice" in fault(TENANT + TENANT, tmp_path)
    assert "not a name" in fault('[[tenants]]\nname = "../a"\n', tmp_path)
    assert "tenants_max" in fault(TENANT + '[[tenants]]\nname = "b"\n[limits]\ntenants_max = 1\n', tmp_path)
    long = fault(TENANT, tmp_path, runtime_dir="/" + "x" * 100)
    assert "runtime_dir" in long
    assert "107" in long


def test_a_socket_path_of_107_bytes_is_the_longest_that_works(tmp_path: Path) -> None:
    rest = len("/t/a/sock")
    load(TENANT, tmp_path, runtime_dir="/" + "x" * (107 - rest - 1))
    fault(TENANT, tmp_path, runtime_dir="/" + "x" * (108 - rest - 1))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml", {}, {}, uid=1000)
    assert "not TOML" in fault("threads = = 1", tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'runtime_dir = "\xe9"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.toml", {}, {}, uid=1000)


def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "delen.toml"
    path.write_text('networks = ["net"]\n[[tenants]]\nname = "a"\n')
    for mode in (0o600, 0o644, 0o664):
        path.chmod(mode)
        assert load_config(path, {}, {}, 1000).networks == ("net",)
    path.chmod(0o646)
    with pytest.raises(ConfigError, match="chmod go-w"):
        load_config(path, {}, {}, 1000)
    path.chmod(0o664)
    for uid, gid, words in ((0, 4711, "chmod go-w"), (4711, 0, "belongs to uid 4711")):
        if os.getuid() == 0:
            os.chown(path, uid, gid)
            with pytest.raises(ConfigError, match=words):
                load_config(path, {}, {}, 1000)


@pytest.mark.parametrize("name", [name for name, kind in get_type_hints(Limits).items() if kind is int])
def test_no_limit_is_larger_than_what_has_to_hold_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "delen.toml"
    path.write_text(f'[[tenants]]\nname = "a"\n[limits]\n{name} = {2**63}\n')
    with pytest.raises(ConfigError, match=rf"delen.toml:4: limits.{name} is .*; expected at most"):
        load_config(path, {}, {}, 1000)


def test_endpoints_live_with_the_user_and_a_service_of_root_in_the_system(tmp_path: Path) -> None:
    path = tmp_path / "delen.toml"
    path.write_text(TENANT)
    user = {"XDG_RUNTIME_DIR": "/run/user/0"}
    assert load_config(path, {}, user, uid=0).runtime_dir == "/run/delen"
    assert load_config(path, {"dev": True}, user, uid=0).runtime_dir == "/run/user/0/delen"
    assert load_config(path, {}, {"XDG_RUNTIME_DIR": "/run/user/7"}, uid=7).runtime_dir == "/run/user/7/delen"
    assert load_config(path, {}, {**user, "DELEN_RUNTIME_DIR": "/elsewhere"}, uid=0).runtime_dir == "/elsewhere"


def test_in_development_every_tenant_sees_all_and_otherwise_only_who_may(tmp_path: Path) -> None:
    assert [tenant.sees_all for tenant in load(TENANT, tmp_path, dev=True).tenants] == [True]
    assert [tenant.sees_all for tenant in load(TENANT, tmp_path).tenants] == [False]
