"""The picture of a profile: every exit in both panels, dominated ones marked, energies with their source."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from delen.profiles.plot import PlotError, draw_profile
from delen.profiles.schema import Profile
from delen.tests.sample_profile import sample_profile

PNG = b"\x89PNG\r\n"


def _svg_text(profile: Profile, tmp_path: Path) -> str:
    """The picture as SVG: matplotlib writes each text that it draws as a comment."""
    path = tmp_path / "p.svg"
    draw_profile(profile, path)
    return path.read_text("utf-8")


@pytest.mark.slow  # matplotlib's first import alone takes half a second
def test_a_png_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `report`")
    path = tmp_path / "p.png"
    draw_profile(sample_profile(), path)
    assert path.read_bytes().startswith(PNG)


@pytest.mark.slow
def test_exits_sources_and_the_device_are_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `report`")
    text = _svg_text(sample_profile(accuracies=(0.85, 0.97, 0.96)), tmp_path)
    for words in ("exit 0", "exit 1", "dominated", "modelled", "test board, test processor, 15W", "batch 8", "360"):
        assert words in text, words
    assert "dominated" not in _svg_text(sample_profile(), tmp_path)


@pytest.mark.slow
def test_unknown_energy_is_said_and_not_drawn_as_zero(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `report`")
    assert "energy: unknown" in _svg_text(sample_profile(energy=False), tmp_path)


@pytest.mark.slow
def test_a_single_batch_size_and_free_steps_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `report`")
    free = sample_profile(segments_us=(0, 0, 0), heads_us=(0, 0, 0))
    single = msgspec.structs.replace(
        free,
        batches=(1,),
        segments=tuple(row[:1] for row in free.segments),
        heads=tuple(row[:1] for row in free.heads),
    )
    assert "exit 0" in _svg_text(single, tmp_path)


@pytest.mark.slow
def test_where_it_cannot_be_written_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `report`")
    with pytest.raises(PlotError, match=r"cannot write .*absent"):
        draw_profile(sample_profile(), tmp_path / "absent" / "p.png")
    with pytest.raises(PlotError, match=r"\.png, \.svg or \.pdf"):
        draw_profile(sample_profile(), tmp_path / "p.odd")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(PlotError, match=r"pip install 'delen\[report\]'"):
        draw_profile(sample_profile(), tmp_path / "p.png")
