"""The command `delen`: which subcommands there are, and how every failure becomes one line and an exit code.

Flow: `main` -> click parses -> the subcommand's module (`command_*.py`) is imported only now -> it runs. `delen --help`
therefore loads no numpy, no sockets and no engine. Data goes to stdout, talk to stderr.

Does not: hold any subcommand.
"""

from __future__ import annotations

import gettext
import os
import sys
import traceback
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from .exit_codes import MEANING, CommandFailed, ExitCode, code_of

# Name: (module of this room, what it does). The function there is named `<name>_command`.
COMMANDS = {
    "serve": ("command_serve", "Run the daemon."),
    "infer": ("command_infer", "Ask for one or more answers, with bounds."),
    "networks": ("command_status", "List the networks and what their exits cost here."),
    "ps": ("command_status", "Show who asked for what and what they got."),
    "profile": ("command_profile", "Measure what a network costs on this device."),
    "attach": ("command_attach", "Give a PyTorch model exits."),
    "convert-weights": ("command_convert", "Take the tensors out of a file that torch.save wrote."),
    "train": ("command_train", "Train a shipped recipe and export it as a bundle."),
    "export": ("command_export", "Export a trained network as a bundle, calibrated as it runs."),
    "import": ("command_import", "Make a bundle of a network that Dělen released."),
    "sign": ("command_sign", "Sign a bundle, so that a daemon can tell whose it is."),
    "calibrate": ("command_calibrate", "Calibrate a network on your own labelled data."),
    "certify": ("command_certify", "Explain how an accuracy would be kept, and what it costs."),
    "demo": ("command_demo", "Watch five tenants with different bounds share one daemon."),
    "load": ("command_load", "Offer load and measure what the bounds are worth."),
    "network": ("command_network", "Add, swap or remove a network while the daemon serves."),
    "adapt": ("command_adapt", "Change how this tenant's requests adapt: by a battery, load, conditions."),
    "keys": ("command_keys", "Say who may ask: users, keys, rights and limits of tenants."),
    "gateway": ("command_gateway", "Serve metrics, health and traces over HTTP."),
    "simulate": ("command_simulate", "See on a virtual clock what a policy would be worth."),
    "plan": ("command_plan", "See which board serves how many tenants within your bounds."),
    "bench": ("command_bench", "Measure delen itself."),
    "doctor": ("command_doctor", "Check this machine and say what to fix."),
    "install-service": ("command_install", "Run the daemon as a systemd service."),
    "uninstall-service": ("command_install", "Remove what install-service wrote."),
    "sbom": ("command_sbom", "Print what delen is made of here: a bill of materials."),
    "completion": ("command_completion", "Print the script that makes your shell complete delen."),
}

# In click's context: whether failures, too, are to be said as JSON.
ASKED_JSON = f"{__name__}.json"


class DelenGroup(click.Group):
    """Loads a subcommand when it is called, and turns failures into one line and their exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = f"{__package__}.{COMMANDS[cmd_name][0]}"
        try:
            command = getattr(import_module(module), f"{cmd_name.replace('-', '_')}_command")
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            text = f"`delen {cmd_name}` is not part of this installation"
            raise CommandFailed(text, ExitCode.UNAVAILABLE) from None
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ASKED_JSON] = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except click.ClickException as error:
            raise _escaped(error) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        # click's own would import every subcommand to ask whether it is hidden.
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(gettext.gettext("Commands")):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), text) for code, text in MEANING.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if ctx.meta[ASKED_JSON]:
                _print_failure(ctx, error, Line(error.format_message(), ExitCode(error.exit_code)))
            raise _escaped(error) from None
        except (click.exceptions.Exit, BrokenPipeError):
            raise
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(ExitCode.INTERRUPTED)
        except Exception as error:
            # The top of the process: whatever nobody expected becomes one line too, which says that it is a fault.
            if os.environ.get("DELEN_DEBUG"):
                traceback.print_exc()
            from ..daemon.log_lines import escaped

            line = _line_of(error)
            # A file's or a daemon's words may hold anything; a terminal must not act on it.
            click.echo(f"delen: {escaped(line.message)}", err=True)
            if line.hint:
                click.echo(f"  hint: {escaped(line.hint)}", err=True)
            if ctx.meta[ASKED_JSON]:
                _print_failure(ctx, error, line)
            ctx.exit(line.code)


def _escaped(error: click.ClickException) -> click.ClickException:
    """The same, quoting arguments so that a terminal does not act on them."""
    from ..daemon.log_lines import escaped

    # Not by name: click calls it final, and makes errors of a dozen classes.
    vars(error)["message"] = "\n".join(escaped(line) for line in error.message.split("\n"))
    return error


def _print_failure(ctx: click.Context, error: Exception, line: Line) -> None:
    """The same for programs, unless they have their document: a refusal's offer as numbers, for a script to take."""
    from .tables import PRINTED, print_json

    if PRINTED in ctx.meta:
        return
    said = {"message": line.message, "code": getattr(error, "code", None), "exit_code": int(line.code)}
    print_json({"error": {**said, "offer": getattr(error, "offer", None)}})


class Line(NamedTuple):
    """What is said of a failure: one line, what to do about it, and the exit code."""

    message: str
    code: ExitCode
    hint: str = ""


def _line_of(error: Exception) -> Line:
    code = code_of(error)
    if code is None:
        what = f"{type(error).__name__}: {error}".strip(": ")
        return Line(f"a fault of delen's own: {what}", ExitCode.INTERNAL, "DELEN_DEBUG=1 shows where; please report it")
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, UnicodeEncodeError):
        return Line(f"an argument or a variable is no UTF-8 text: {error.object[:80]!r}", code)
    if isinstance(error, OSError) and error.filename:
        return Line(f"{error.filename}: {error.strerror}", code)
    # Not str(error): some of our errors repeat their hint there, for callers who print nothing else.
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return Line(" ".join(text.split()), code, _hint(error))


def _hint(error: Exception) -> str:
    hint = str(getattr(error, "hint", "") or "")
    offer = getattr(error, "offer", None)
    if offer is None:
        return hint
    said = [f"{name} {getattr(offer, name):g}" for name in offer.__struct_fields__ if getattr(offer, name) is not None]
    return f"feasible now, each alone: {', '.join(said)}" if said else hint


def _missing(error: ModuleNotFoundError) -> Line:
    extras = {"onnxruntime": "onnx", "matplotlib": "report", "PIL": "pictures", "torch": "train", "onnx": "train"}
    extras |= {"cryptography": "sign", "onnxscript": "train", "sklearn": "train", "safetensors": "train"}
    name = (error.name or "").split(".")[0]
    if name == "delen":
        return Line(f"{error.name} is not part of this installation", ExitCode.UNAVAILABLE, "install delen again")
    extra = extras.get(name)
    hint = f"pip install 'delen[{extra}]'" if extra else "install delen again: a package it needs is gone"
    return Line(f"the Python package {name} is not installed", ExitCode.UNAVAILABLE, hint)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"delen {version('delen')}")
        ctx.exit()


@click.group(cls=DelenGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Say which.")
def delen() -> None:
    """Serve multi-exit neural networks to many tenants, each with its own bounds on latency, accuracy and energy.

    Every command takes --json after its name: data on stdout, talk on stderr. NO_COLOR is honoured.
    """


def main() -> None:
    """The console script. Exits; never returns."""
    sys.exit(delen(prog_name="delen"))
