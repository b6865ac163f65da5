"""`delen completion`: the script that teaches a shell to complete delen's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .tables import json_option, print_json

WHERE = {
    "bash": "~/.local/share/bash-completion/completions/delen",
    "zsh": "a directory of $fpath, as _delen",
    "fish": "~/.config/fish/completions/delen.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(sorted(WHERE)))
@json_option
def completion_command(shell: str, as_json: bool) -> None:
    """Print the completion script of SHELL.

    \b
    Put it where your shell looks:
      bash  delen completion bash > ~/.local/share/bash-completion/completions/delen
      zsh   delen completion zsh > a directory of $fpath, as _delen
      fish  delen completion fish > ~/.config/fish/completions/delen.fish
    """
    from .cli import delen

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(delen, {}, "delen", "_DELEN_COMPLETE").source()
    if as_json:
        print_json({"shell": shell, "where": WHERE[shell], "script": script})
    else:
        click.echo(script)
