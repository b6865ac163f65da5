"""`delen attach`: an ordinary PyTorch model gets exits and becomes a workspace, ready to train and to export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .tables import Column, count, json_option, percent, print_json, print_table, say, warn

if TYPE_CHECKING:
    from ..exits.manifest import TensorShape
    from ..exits.workspace import Workspace
    from .info import Preprocessing

HEADS = ("pool", "linear", "mlp")
DTYPES = ("float32", "int64", "int32", "uint8")
EXITS_MAX = 32


class Sides(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A shape without batch, like 3x32x32; arrives as a tuple."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = str(value).lower().split("x")
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is no shape; expected like 3x32x32, or 128", param, ctx)
        return tuple(map(int, parts))


class Numbers(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Numbers between commas, like 0.485,0.456,0.406; arrive as a tuple."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} are no numbers; expected like 0.485,0.456,0.406", param, ctx)


@click.command("attach")
@click.argument("source", metavar="SOURCE")
@click.option("--at", multiple=True, metavar="MODULE", help="An exit after this module; once for each, in any order.")
@click.option("--exits", type=click.IntRange(2, EXITS_MAX), help="So many at even cost, the model's own included.")
@click.option(
    "--by", type=click.Choice(["flops", "time"]), default="flops", show_default=True, help="Cost for --exits."
)
@click.option("--propose", type=click.IntRange(2, EXITS_MAX), metavar="N", help="Show where N exits could go; no more.")
@click.option("--head", type=click.Choice(HEADS), default="pool", show_default=True, help="Kind of the new heads.")
@click.option("--classes", type=click.IntRange(2), help="How many, where the data has others than the model gives.")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Their names, one a line.")
@click.option("--input", "shape", type=Sides(), help="One input without batch, like 3x32x32.  [default: the zoo's]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the input.  [default: the zoo's, else float32]")
@click.option("--mean", type=Numbers(), help="Of each colour, as the model was trained, after scaling to 0..1.")
@click.option("--std", type=Numbers(), help="Likewise.")
@click.option("--colour", type=click.Choice(["rgb", "gray", "none"]), help="How a picture becomes the input.")
@click.option("--weights", type=click.Path(path_type=Path), help="Trained weights of the model, .safetensors or .npz.")
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the workspace.  [default: ./NAME]")
@click.option("--replace", is_flag=True, help="An older workspace at --out may go.")
@click.option("--dry-run", is_flag=True, help="Attach and show, but write nothing.")
@json_option
def attach_command(source: str, as_json: bool, **options: Any) -> None:
    """Give a PyTorch model exits.

    SOURCE is zoo:NAME (zoo:resnet50), or package.module:function, a function of yours that takes nothing and returns
    the model. Without --at and --exits the exits go where the zoo has them. The new heads know nothing yet:
    `delen train OUT --data DATA` teaches them, then `delen export OUT` makes a bundle.
    """
    if options["propose"] is not None:
        _propose(source, as_json, options)
        return
    workspace = _attach(source, options)
    out = options["out"] or Path(source.rpartition(":")[2])
    if not options["dry_run"]:
        _save(workspace, out, options["replace"])
    rows = _rows(workspace)
    if as_json:
        written = None if options["dry_run"] else str(out)
        print_json({"directory": written, "source": source, "classes": len(workspace.classes), "exits": rows})
        return
    print_table(rows, _EXITS, f"{source}  {len(workspace.exits)} exits  {len(workspace.classes)} classes")
    if workspace.tracer == "export":
        warn("traced by torch.export: batch norms and dropout stay as in inference, also in training")
    if options["dry_run"]:
        say("nothing written")
    else:
        say(f"the heads are untrained; next: delen train {_as_directory(out)} --data DATA")


def _attach(source: str, options: dict[str, Any]) -> Workspace:
    from ..exits.weights_file import read_weights
    from ..exits.workspace import ZOO_PREFIX, build_source, make_workspace

    form, rule, zoo_at, zoo_classes = _known(source, options)
    classes = _classes(options)
    weights = options["weights"]
    state = None if weights is None else read_weights(weights).tensors
    wanted = None if classes is None else len(classes)
    model = build_source(source, wanted, state)
    zoo = source.startswith(ZOO_PREFIX)
    # The zoo leaves a classifier for another number of classes untrained; without weights everything is.
    new_last = zoo and (state is None or wanted not in (None, zoo_classes))
    if zoo and state is None:
        warn("no --weights: the whole network is untrained; train it with --trunk joint")
    return make_workspace(
        source,
        model,
        _places(options, zoo_at, model, form),
        head=options["head"],
        classes=classes,
        form=form,
        preprocessing=rule,
        provenance={"weights": "none" if weights is None else weights.name, **_versions()},
        new_last_head=new_last,
    )


def _propose(source: str, as_json: bool, options: dict[str, Any]) -> None:
    from ..exits.attaching import propose
    from ..exits.workspace import build_source, example_of

    form, *_ = _known(source, options)
    model = build_source(source, None)
    chosen, found = propose(model, example_of(form), options["propose"] - 1, options["by"])
    rows = [
        {
            "path": cost.path,
            "also": ", ".join(cost.paths[1:]) or None,
            "shape": list(cost.shape),
            "gmac": cost.macs / 1e9,
            "time_ms": None if cost.time_us is None else cost.time_us / 1000,
            "share": cost.share,
            "proposed": cost.path in chosen,
        }
        for cost in found
    ]
    if as_json:
        print_json({"source": source, "by": options["by"], "proposed": chosen, "places": rows})
        return
    print_table(rows, _PLACES, f"{source}  places for exits, cost up to there")
    say("attach there: delen attach " + " ".join([source, *(f"--at {path}" for path in chosen)]))


def _known(source: str, options: dict[str, Any]) -> tuple[TensorShape, Preprocessing, tuple[str, ...], int | None]:
    """Form of the input, preprocessing, places of exits and number of classes: as asked for, else the zoo's."""
    from ..exits.manifest import TensorShape
    from ..exits.workspace import ZOO_PREFIX
    from .info import Preprocessing

    entry = None
    if source.startswith(ZOO_PREFIX):
        from ..exits.zoo import ZOO

        entry = ZOO.get(source.removeprefix(ZOO_PREFIX))
        if entry is None:
            raise click.UsageError(f"no network {source!r}; the zoo has {', '.join(f'{ZOO_PREFIX}{n}' for n in ZOO)}")
    shape = options["shape"] or (entry and entry.shape)
    if not shape:
        raise click.UsageError("the shape of one input is not known; say it, like --input 3x32x32")
    form = TensorShape(dtype=options["dtype"] or (entry.dtype if entry else "float32"), shape=shape)
    rule = entry.preprocessing if entry else Preprocessing()
    colour = options["colour"] or rule.colour
    if any(options[name] for name in ("mean", "std", "colour")):
        rule = Preprocessing(
            colour=colour,
            scale=1.0 if colour == "none" else 1 / 255,
            mean=options["mean"] or rule.mean,
            std=options["std"] or rule.std,
        )
    return form, rule, entry.at if entry else (), entry.classes if entry else None


def _places(options: dict[str, Any], zoo_at: tuple[str, ...], model: Any, form: TensorShape) -> tuple[str, ...] | int:
    if options["at"] and options["exits"]:
        raise click.UsageError("--at names the places and --exits has them proposed; give one of the two")
    if options["exits"]:
        if options["by"] == "flops":
            return int(options["exits"]) - 1
        from ..exits.attaching import propose
        from ..exits.workspace import example_of

        return tuple(propose(model, example_of(form), options["exits"] - 1, "time")[0])
    if not options["at"] and not zoo_at:
        raise click.UsageError("where shall the exits go? --at MODULE for each, or --exits N; --propose N shows places")
    return options["at"] or zoo_at


def _classes(options: dict[str, Any]) -> tuple[str, ...] | None:
    if options["labels"] is None:
        return None if options["classes"] is None else tuple(map(str, range(options["classes"])))
    lines = options["labels"].read_text("utf-8").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) < 2 or len(set(names)) < len(names):
        raise click.UsageError(f"{options['labels']} has {len(names)} names; expected two or more, all different")
    if options["classes"] not in (None, len(names)):
        raise click.UsageError(f"--classes {options['classes']}, but {options['labels']} names {len(names)}")
    return names


def _save(workspace: Workspace, out: Path, replace: bool) -> None:
    from ..exits.workspace import save_workspace

    try:
        save_workspace(workspace, out, replace=replace)
    except FileExistsError as error:
        raise CommandFailed(str(error), ExitCode.CANNOT_CREATE, "an older workspace goes with --replace") from error


def _rows(workspace: Workspace) -> list[dict[str, Any]]:
    last = max(1, workspace.exits[-1].macs)
    return [
        {
            "exit": index,
            "path": one.path,
            "shape": list(one.shape),
            "gmac": one.macs / 1e9,
            "share": one.macs / last,
            "head_parameters": one.head_parameters,
        }
        for index, one in enumerate(workspace.exits)
    ]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"torch": version("torch"), "delen": version("delen")}


def _as_directory(path: Path) -> str:
    """A bare name might be a recipe's; with a slash it is a directory."""
    return str(path) if "/" in str(path) else f"./{path}"


def _shape(sides: list[int]) -> str:
    return "x".join(map(str, sides))


def _gmac(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.5f}"


_EXITS = (
    Column("exit", "exit"),
    Column("path", "after", str, "left"),
    Column("shape", "features", _shape),
    Column("gmac", "GMAC", _gmac),
    Column("share", "of all", percent),
    Column("head_parameters", "head's parameters", count),
)
_PLACES = (
    Column("path", "after", str, "left"),
    Column("also", "ends there too", str, "left"),
    Column("shape", "features", _shape),
    Column("gmac", "GMAC", _gmac),
    Column("time_ms", "ms", lambda value: f"{value:.2f}"),
    Column("share", "of all", percent),
    Column("proposed", "proposed", lambda value: "<-" if value else "", "left"),
)
