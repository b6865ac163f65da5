"""`delen convert-weights`: the tensors of what `torch.save` wrote, as a file that holds nothing but tensors."""

from __future__ import annotations

from pathlib import Path

import click

from .exit_codes import CommandFailed, ExitCode
from .tables import count, json_option, print_json, say


@click.command("convert-weights")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="An older file at OUT may go.")
@json_option
def convert_weights_command(file: Path, out: Path, replace: bool, as_json: bool) -> None:
    """Convert FILE (.pt, .pth, .th, .bin) to OUT, a .safetensors file.

    What torch.save writes is a pickle, which can run any program when it is loaded, so delen reads it nowhere else.
    Here PyTorch's weights-only loader takes the tensors and refuses the rest. A level `state_dict` and a prefix
    `module.` before every name are taken off.
    """
    from ..exits.weights_file import convert_pickle, write_weights

    if out.suffix != ".safetensors":
        raise click.UsageError(f"{out} is to be a .safetensors file; name it so")
    if out.exists() and not replace:
        raise CommandFailed(f"{out} exists", ExitCode.CANNOT_CREATE, "an older file goes with --replace")
    converted = convert_pickle(file)
    write_weights(out, converted.tensors, {"converted_from": file.name})
    values = sum(tensor.numel() for tensor in converted.tensors.values())
    if as_json:
        said = {"file": str(out), "tensors": len(converted.tensors), "values": values, "done": list(converted.done)}
        print_json(said)
        return
    for line in converted.done:
        say(line)
    say(f"{out}: {count(len(converted.tensors))} tensors, {count(values)} values")
