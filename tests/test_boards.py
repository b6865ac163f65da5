"""Published figures: every file is sound and says where it is from; names of devices mean what they seem to."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.profiles.boards import Spec, board_files, clocked, parse_spec, read_board_file, replayed
from delen.profiles.costs import Costs
from delen.profiles.schema import ProfileError


def test_every_file_says_its_source_and_licence_and_what_was_assumed() -> None:
    files = board_files()
    assert {file.board for file in files} == {
        *("jetson-agx-orin", "jetson-nano", "jetson-orin-nx", "jetson-tx2", "jetson-xavier-nx"),
    }
    for file in files:
        assert "github " in file.source
        assert file.licence.startswith(("MIT", "Apache-2.0"))
        assert file.assumed


def test_the_tx2_has_the_published_figures() -> None:
    profile = replayed(parse_spec("jetson-tx2@726MHz"), "resnet50")
    costs = Costs.of(profile, 1)
    published = [(12.512, 16.713), (30.255, 47.58), (58.85, 98.457), (86.979, 149.356)]
    found = [(costs.path_us(0, k, 1) / 1000, costs.energy_mj(k, 1)) for k in range(4)]
    assert [ms for ms, _ in found] == pytest.approx([ms for ms, _ in published])
    assert [mj for _, mj in found] == pytest.approx([mj for _, mj in published])


def test_a_batch_on_xavier_nx_costs_what_was_measured() -> None:
    profile = replayed(parse_spec("jetson-xavier-nx@MAXN"), "resnet50")
    costs = Costs.of(profile, 8)
    assert costs.path_us(0, 3, 1) == pytest.approx(2433.52, rel=1e-4)
    assert costs.path_us(0, 3, 8) == pytest.approx(10_200, rel=1e-4)
    assert costs.energy_mj(3, 1) is None


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("jetson-tx2@726MHz", Spec("jetson-tx2", 726_750, None)),
        ("jetson-tx2@726.75mhz", Spec("jetson-tx2", 726_750, None)),
        ("jetson-tx2@1GHz", Spec("jetson-tx2", 1_000_000, None)),
        ("jetson-xavier-nx@maxq", Spec("jetson-xavier-nx", None, "MaxQ")),
        ("jetson-nano", Spec("jetson-nano", None, None)),
    ],
)
def test_names_of_devices(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jetson-tx1", "no figures of a board 'jetson-tx1'; there are jetson-agx-orin, jetson-nano"),
        ("jetson-tx2@fast", "'fast' is not a clock; expected e.g. jetson-tx2@1300MHz"),
        ("jetson-agx-orin@30W", "'30W' is not one of its power modes, MAXN, MaxQ"),
        ("jetson-nano@0MHz", "'0MHz' is not"),
        ("jetson-tx2@" + 400 * "9" + "MHz", "9MHz' is not a clock"),
    ],
)
def test_a_device_nobody_knows_is_refused_with_what_is_known(text: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        parse_spec(text)


def test_a_setting_without_figures_is_refused() -> None:
    with pytest.raises(ProfileError, match="says no GPU clock, so nothing is known of 726 MHz"):
        replayed(parse_spec("jetson-nano@726MHz"), "resnet50")
    with pytest.raises(
        ProfileError, match="no figures of network 'resnet18' on jetson-nano; there are those of resnet50"
    ):
        clocked("jetson-nano", "resnet18")


def test_a_spec_is_written_as_it_is_read() -> None:
    for text in ("jetson-tx2@726.75MHz", "jetson-xavier-nx@MaxQ", "jetson-nano"):
        assert str(parse_spec(text)) == text


def test_a_file_whose_tables_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    shipped = Path(__file__).parent.parent / "profiles" / "boards" / "jetson-nano-resnet50.json"
    path.write_text(shipped.read_text().replace("[12.1, 26.2, 43.2, 59.5]", "[12.1, 26.2, 43.2]"), "utf-8")
    with pytest.raises(ProfileError, match=r"board\.json"):
        read_board_file(path)
    path.write_text(shipped.read_text().replace("[12.1, 26.2, 43.2, 59.5]", "[12.1, 26.2, 13.2, 59.5]"), "utf-8")
    with pytest.raises(ProfileError, match="expected finite, not negative"):
        read_board_file(path)
