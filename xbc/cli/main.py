"""Entry point of ``xbc``: one lazy table of commands, and the one place where errors become exit codes.

Exit codes: 0 done; 1 ``verify`` found a fault; 2 bad input (one sentence on stderr); 130 interrupted, 143
terminated (the line on stderr says which outputs stand complete); 70 a bug in xbc.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from typing import Final, NoReturn, cast

import click

from xbc.system import interrupts

COMMANDS: Final = {
    "compile": "xbc.cli.compile:command",
    "opt": "xbc.cli.opt:command",
    "passes": "xbc.cli.passes:command",
    "inspect": "xbc.cli.inspect:command",
    "simulate": "xbc.cli.simulate:command",
    "evaluate": "xbc.cli.evaluate:command",
    "sweep": "xbc.cli.sweep:command",
    "verify": "xbc.cli.verify:command",
    "emit": "xbc.cli.emit:command",
    "readback": "xbc.cli.readback:command",
    "resume": "xbc.cli.resume:command",
    "wear": "xbc.cli.wear:command",
    "report": "xbc.cli.report:command",
    "sensitivity": "xbc.cli.sensitivity:command",
    "rescale": "xbc.cli.rescale:command",
    "update": "xbc.cli.update:command",
    "targets": "xbc.cli.targets:command",
}
"""Command name -> where it lives: one file with a click command called ``command``, and one line here."""

LONGEST: Final = 300
"""Characters of a sentence."""
BAD_INPUT: Final = 2
BUG: Final = 70
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; a misspelt one gets a suggestion."""
        if args[0] not in COMMANDS and (near := difflib.get_close_matches(args[0], COMMANDS, 1)):
            ctx.fail(f"No such command {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.command(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="xbc", prog_name="xbc")
def cli() -> None:
    """Compile ONNX networks to reprogramming programs for memristor crossbar chips.

    \b
    First steps:
      xbc compile model.onnx                    write model.xbc/ for the default chip
      xbc verify model.xbc                      replay it on the virtual chip
      xbc evaluate model.xbc --data set.npz     accuracy after compiling
      xbc inspect model.xbc                     what is written where

    Every command explains itself: xbc COMMAND --help.
    """


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; nothing escapes but bugs, which are shown whole."""
    interrupts.begin()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    late = interrupts.pending()
    if late is not None:  # also one that some library swallowed
        code = INTERRUPTED if late == signal.SIGINT else interrupts.TERMINATED
    if code in (INTERRUPTED, interrupts.TERMINATED):
        _tell(code)
    return code


def _tell(code: int) -> None:
    """Says that a signal ended the command, and which output stands."""
    word = "interrupted" if code == INTERRUPTED else "terminated"
    whole = interrupts.placed()
    what = (
        f"; {', '.join(whole)} had been written and stands complete" if whole else "; no output was changed"
    )
    click.echo(f"xbc: {word}{what}", err=True)


def _run(arguments: list[str]) -> int:
    from ir.errors import XbcError  # brings numpy: Ctrl-C meanwhile is an interruption like any other

    for word in arguments:
        if any("\ud800" <= c <= "\udfff" for c in word):
            shown = word.encode("ascii", "backslashreplace").decode()
            return _fail(f"{shown!r} is no UTF-8 text: rename the file, or give another name")
    try:
        result = cli.main(args=arguments, prog_name="xbc", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0  # click hands back the code of ctx.exit
    except XbcError as error:
        return _fail(str(error))
    except click.Abort:
        raise
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # plain ``xbc``
            click.echo(error.format_message())
            return 0
        command = error.ctx.command_path if error.ctx else "xbc"
        return _fail(f"{error.format_message().rstrip('.?')}; see {command} --help")
    except click.ClickException as error:
        return _fail(error.format_message())
    except SystemExit as stop:
        # click's own way to end when the reader has gone (xbc ... | head); a signal brings its own code.
        return BROKEN_PIPE if stop.code == 1 else int(stop.code or 0)
    except BrokenPipeError:
        # The same, noticed at the last flush: keep the interpreter's exit from complaining about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError:
        return _fail("out of memory: the model or the set is too large for this machine")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo(
            "xbc: this is a bug in xbc; please report the lines above with the command you gave", err=True
        )
        return BUG


def _fail(message: str) -> int:
    message = " ".join(message.split())
    if len(message) > LONGEST:  # names and values of files are as long as somebody made them
        message = f"{message[: LONGEST - 100]} ... {message[-95:]}"
    click.echo(f"xbc: error: {message}", err=True)
    return BAD_INPUT


def main() -> NoReturn:
    """Console script."""
    interrupts.install()
    try:
        _open_streams()
        code = run()
    except (KeyboardInterrupt, SystemExit):  # one more, while the first was being said or before
        interrupts.ignore()
        code = INTERRUPTED if interrupts.pending() == signal.SIGINT else interrupts.TERMINATED
        _tell(code)
    interrupts.ignore()
    sys.exit(code)


def _open_streams() -> None:
    """Standard streams that the caller has closed lead nowhere; else the next file would take their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            empty = os.open(os.devnull, os.O_RDWR)
            if empty != number:
                os.dup2(empty, number)
                os.close(empty)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for the whole run
