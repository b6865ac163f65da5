"""`make audit`: known vulnerabilities of the packages that are installed, less those that were looked at and waived.

Flow: `pip-audit` (pypi.org/project/pip-audit) asks PyPI's database about every installed package -> what it finds, less
`audit_waivers.toml` -> a line each, and exit code 1. Where no database can be reached nothing is known: that is said,
and is no failure, since a build without a network must work. Does not: repair anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

WAIVERS = Path(__file__).with_name("audit_waivers.toml")
COMMAND = (
    "pip_audit",
    "--local",
    "--skip-editable",
    "--format",
    "json",
    "--progress-spinner",
    "off",
    "--timeout",
    "20",
)
SECONDS_MAX = 600


class Waiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vulnerability that is known not to matter here. `until`: when somebody has to look again."""

    id: str
    package: str
    reason: str
    until: date


class Waivers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    waivers: tuple[Waiver, ...] = ()


class Found(NamedTuple):
    """One vulnerability of one package. `names`: all that it is known by. `fixed`: versions without it."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed: tuple[str, ...]


def read_waivers(data: bytes) -> tuple[Waiver, ...]:
    """Raises msgspec.ValidationError: a waiver without a reason or a date is none."""
    return msgspec.toml.decode(data, type=Waivers).waivers


def found_in(report: dict[str, Any]) -> list[Found]:
    """What a pip-audit report lists."""
    return [
        Found(
            package["name"],
            package["version"],
            (fault["id"], *fault.get("aliases", ())),
            tuple(fault.get("fix_versions", ())),
        )
        for package in report["dependencies"]
        for fault in package.get("vulns", ())
    ]


def judge(found: list[Found], waivers: tuple[Waiver, ...], today: date) -> list[str]:
    """A line for each vulnerability that nobody has waived, and for each waiver that is over or no longer needed."""
    lines, used = [], set()
    for one in found:
        waiver = next((item for item in waivers if item.id in one.names and item.package == one.package), None)
        if waiver is not None:
            used.add(waiver)
        if waiver is None or waiver.until < today:
            over = f"; its waiver ended {waiver.until}" if waiver else ""
            fixed = ", ".join(one.fixed) or "no version yet"
            lines.append(f"{one.package} {one.version}: {', '.join(one.names)}; fixed in {fixed}{over}")
    lines += [
        f"waiver of {item.id} for {item.package} is not needed; remove it" for item in waivers if item not in used
    ]
    return lines


def main() -> int:
    done = subprocess.run([sys.executable, "-m", *COMMAND], capture_output=True, text=True, timeout=SECONDS_MAX)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        click.echo(f"not audited: pip-audit has no database to ask here ({reason:.300})")
        return 0
    unknown = {
        package["name"]: package["skip_reason"] for package in report["dependencies"] if "skip_reason" in package
    }
    if len(unknown) == len(report["dependencies"]):
        click.echo(
            f"not audited: the database knows none of {len(unknown)} packages ({next(iter(unknown.values())):.200})"
        )
        return 0
    lines = judge(found_in(report), read_waivers(WAIVERS.read_bytes()), date.today())
    count = len(report["dependencies"]) - len(unknown)
    click.echo(f"audited {count} packages; not known to the database: {', '.join(unknown) or 'none'}")
    for line in lines:
        click.echo(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
