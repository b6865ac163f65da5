"""Trace readers: each published form is read for what it is, anything else is refused by file and line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from delen.profiles.trace_files import TraceError, read_counts, read_servegen, read_timestamps

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:17:03.9799600,4808,10\r\n"
    "2023-11-16 18:17:04.0319600,3180,8\r\n"
    "2023-11-17 18:17:03.9799609,110,27"
)
SERVEGEN = "0,0.805,0.57,Gamma,3.0811,0.36\n600,0,0,,0,0\n1200,0.935,0.76,Weibull,1.33,1.1677\n"
NAB = "timestamp,value\n2014-04-10 00:04:00,94.0\n2014-04-10 00:09:00,56.0\n2014-04-10 00:19:00,7"

# Read here, before the variables of whoever runs the tests are hidden from them.
DATA = os.environ.get("DELEN_DATA", "")

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(text.encode())
        return path

    return write


def test_timestamps_are_microseconds_from_the_first(write: Write) -> None:
    times_us = read_timestamps(write(AZURE))
    assert times_us.dtype == np.int64
    np.testing.assert_array_equal(times_us, [0, 52_000, 86_400_000_000])


def test_a_servegen_client_is_read_window_by_window(write: Write) -> None:
    first, silent, last = read_servegen(write(SERVEGEN))
    assert (first.start_s, first.length_s, first.rate_hz, first.cv) == (0, 600, 0.805, 0.57)
    assert (first.family, first.shape, first.scale_s) == ("Gamma", 3.0811, 0.36)
    assert (silent.family, silent.rate_hz) == ("", 0)
    assert (last.start_s, last.length_s, last.family) == (1200, 600, "Weibull")


@pytest.mark.parametrize("text", ["149,146,151\n", "149\n146\n151\n", "149,146\r\n151,\n"])
def test_counts_are_read_across_a_line_or_down_a_column(write: Write, text: str) -> None:
    read = read_counts(write(text))
    assert list(read.counts) == [149, 146, 151]
    assert read.bin_s is None


def test_counts_with_timestamps_know_their_bin_and_fill_what_was_left_out(write: Write) -> None:
    read = read_counts(write(NAB))
    assert list(read.counts) == [94, 56, 0, 7]
    assert read.bin_s == 300


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("TIME,A\n2023-11-16 18:17:03.97,1", "line 1: .* expected one named TIMESTAMP"),
        ("TIMESTAMP,A\n", "nothing below it"),
        (AZURE.replace("2023-11-16 18:17:04.0319600", "soon"), "line 3: 'soon'; expected a time like"),
        (AZURE.replace("2023-11-16 18:17:04", "2023-13-16 18:17:04"), "line 3: 2023-13-16 .* a time that exists"),
        (AZURE.replace("2023-11-17", "2022-11-17"), "line 4: 2022-11-17 .* before the line above"),
    ],
)
def test_timestamps_of_another_form_are_refused_by_line(write: Write, text: str, fault: str) -> None:
    with pytest.raises(TraceError, match=fault) as caught:
        read_timestamps(write(text))
    assert "trace.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0,1,1,Gamma,1", "line 1: 5 columns; expected 6"),
        (SERVEGEN.replace("Weibull", "Pareto"), "line 3: the family is 'Pareto'"),
        (SERVEGEN.replace("0.935", "-1"), "line 3: '-1'; expected a rate"),
        (SERVEGEN.replace("1.33", "nan"), "line 3: 'nan'; expected a shape"),
        (SERVEGEN.replace("1.33", "0"), "line 3: a rate of 0.935 without fitted gaps"),
        (SERVEGEN.replace("600,", "0,"), "line 2: begins at 0.0 s"),
        ("0,1,1,Gamma,1,1", "1 windows; expected at least 2"),
    ],
)
def test_a_servegen_file_of_another_form_is_refused_by_line(write: Write, text: str, fault: str) -> None:
    with pytest.raises(TraceError, match=fault):
        read_servegen(write(text))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1,2\n3,x\n", "line 2: 'x'; expected a count"),
        ("1\n\n3\n", "line 2: ''"),
        ("1\n-3\n", "line 2: '-3'"),
        (NAB.replace("56.0", "inf"), "line 3: 'inf'"),
        (NAB.replace("00:19", "00:20"), "line 4: expected a time whole bins of 300.0 s"),
        (NAB.replace("00:09", "00:04"), "whole bins"),
        ("timestamp,value\n2014-04-10 00:04:00,94.0", "expected at least 2"),
    ],
)
def test_counts_of_another_form_are_refused_by_line(write: Write, text: str, fault: str) -> None:
    with pytest.raises(TraceError, match=fault):
        read_counts(write(text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read trace .*missing.csv: No such file"):
        read_counts(tmp_path / "missing.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="is not text"):
        read_counts(tmp_path / "binary")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="DELEN_DATA does not say where the published traces are")
def test_the_published_files_are_read_whole() -> None:
    traces = Path(DATA) / "traces"
    azure = traces / "azure_llm"
    assert len(read_timestamps(azure / "AzureLLMInferenceTrace_code.csv")) == 8819
    assert len(read_timestamps(azure / "AzureLLMInferenceTrace_conv.csv")) == 19_366
    clients = [read_servegen(path) for path in (traces / "servegen_mm_image").glob("*.csv")]
    assert [len(windows) for windows in clients] == [144] * 35
    assert len(read_counts(traces / "slopower" / "wikipedia_full_trace.out").counts) == 50_714
    assert len(read_counts(traces / "slopower" / "azure_full_trace.out.txt").counts) == 1440
    lengths = {path.stem: read_counts(path) for path in (traces / "nab").glob("*.csv")}
    assert len(lengths) == 12
    assert {read.bin_s for read in lengths.values()} == {300, 1800}
    assert len(lengths["elb_request_count_8c0756"].counts) == 4032 + 8
