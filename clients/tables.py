"""How the command line looks: one place for tables, numbers, talk and JSON.

Data goes to stdout: `print_table` for people, `print_json` for programs. Talk goes to stderr: `say`, `warn`, progress
bars. On a terminal it is coloured unless NO_COLOR is set; in a pipe it is plain text, one row per line, never wrapped.

Does not: know what the numbers mean.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    # Imported where something is drawn: it takes longer than all else that `delen serve` needs before its networks.
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., Any])
# Wider than any table here, so that a pipe gets whole rows.
PIPE_COLUMNS = 400
BAR_CELLS = 8
# In click's context: this command has printed its document, and stdout takes no second one.
PRINTED = f"{__name__}.printed"
_EIGHTHS = " ▁▂▃▄▅▆▇█"


class Column(NamedTuple):
    """One column: the row's key, what stands above it, and how a value is written."""

    key: str
    title: str
    write: Callable[[Any], RenderableType] = str
    justify: Literal["left", "right"] = "right"


def json_option(command: Command) -> Command:
    """`--json`, the same for every command; arrives as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of tables.")(command)


@functools.cache
def out() -> Console:
    """Where data goes. Plain and unwrapped when it is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


@functools.cache
def err() -> Console:
    """Where talk goes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_COLUMNS)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str = "") -> RenderableType:
    """Rows as a table; None shows as a dash, a key that is absent leaves its cell empty."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    terminal = out().is_terminal
    grid = Table(
        box=box.SIMPLE_HEAD if terminal else None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
        expand=False,
    )
    for column in columns:
        grid.add_column(column.title, justify=column.justify, no_wrap=not terminal, overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(row.get(column.key), column) for column in columns))
    return Group(Text(title, style="bold cyan"), grid) if title else grid


def _cell(value: Any, column: Column) -> RenderableType:
    """What stands in a cell; text is shown as it is, never read as markup (`delen[onnx]` is no style)."""
    from rich.text import Text

    if value is None:
        return Text("-", style="dim")
    written = column.write(value)
    return Text(written) if isinstance(written, str) else written


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str = "") -> None:
    """Print rows for people, to stdout."""
    show(table(rows, columns, title))


def show(renderable: RenderableType) -> None:
    """Print anything rich can draw, to stdout; in a pipe without the blanks that fill its last column."""
    console = out()
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_json(data: Any) -> None:
    """Print one JSON document for programs, to stdout. Every field of a struct is named, left out only where unset."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[PRINTED] = True
    click.echo(msgspec.json.format(msgspec.json.encode(_plain(data)), indent=2 if sys.stdout.isatty() else -1))


def _plain(value: Any) -> Any:
    """Structs as maps with all their fields, whatever shape they have on the wire."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: _plain(field) for name, field in fields.items() if field is not msgspec.UNSET}
    if isinstance(value, Mapping):
        return {name: _plain(field) for name, field in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # A file's name need not be text; it is shown as stderr would show it.
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def say(text: str) -> None:
    """Talk to whoever is watching, on stderr."""
    err().print(text, markup=False)


def warn(text: str) -> None:
    """Talk that should not be overlooked, on stderr."""
    from rich.text import Text

    err().print(Text(f"warning: {text}", style="yellow"))


def progress() -> Progress:
    """A progress bar on stderr; shows nothing where stderr is not a terminal."""
    from rich import progress as bars

    console = err()
    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=32),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def milliseconds(value_us: float) -> str:
    """Microseconds as milliseconds with three figures that matter."""
    value_ms = value_us / 1000
    return f"{value_ms:.3f}" if value_ms < 1 else f"{value_ms:.2f}" if value_ms < 100 else f"{value_ms:.0f}"


def percent(share: float) -> str:
    """A share of one as a percentage with one decimal."""
    return f"{share * 100:.1f} %"


def millijoules(value_mj: float) -> str:
    """Energy with three figures that matter."""
    return f"{value_mj:.3g}" if value_mj < 1000 else f"{value_mj:.0f}"


def joules(value_j: float) -> str:
    """Energy as people write it: 0.0482 J, 12.5 J, 5,200 J."""
    return f"{value_j:,.0f} J" if abs(value_j) >= 100 else f"{value_j:.3g} J"


def count(value: int) -> str:
    """A whole number, thousands apart."""
    return f"{value:,}"


def mark(condition: bool) -> Text:
    """Yes in green, no in red."""
    from rich.text import Text

    return Text("yes", style="green") if condition else Text("no", style="red")


def histogram(counts: Sequence[int]) -> Text:
    """Exits as bars and shares, e.g. `█▂▁ 80 15 5 %`; empty when nothing was counted."""
    from rich.text import Text

    total = sum(counts)
    if not total:
        return Text("-", style="dim")
    shares = [value / total for value in counts]
    bars = "".join(_EIGHTHS[round(share * BAR_CELLS)] for share in shares)
    return Text.assemble((bars, "cyan"), " ", " ".join(f"{share * 100:.0f}" for share in shares), " %")
