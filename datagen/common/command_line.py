"""Running a Typer app as a command: one sentence for a mistake of the user's, a traceback for one of ours."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from datagen.common.errors import DISK, UserError, strip_secrets
from datagen.common.formatting import visible


class CommandGroup(TyperGroup):
    """A group of commands, whose own flags are not parsed where a command is named.

    They only print something and exit. To read their defaults typer 0.29 loads pydantic, a third of the time of --help.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the flags of the group; returns the arguments of the command."""
        if args and not args[0].startswith("-"):
            self.params, self.add_help_option = [], False
        rest: list[str] = super().parse_args(ctx, args)
        return rest


OURS = ("datagen", "training", "evaluation")
LONGEST = 2000  # characters of an error that are printed
APP: dict[str, Any] = {
    "add_completion": True,
    "pretty_exceptions_enable": False,  # a traceback of ours is Python's own, with nothing left out
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def run_app(program: str, app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command on `arguments` (those of the process, by default), and exit as `run_command` does."""
    command = typer.main.get_command(app)
    if f"_{program.replace('-', '_').upper()}_COMPLETE" in os.environ:  # the shell asks what could come next
        command(prog_name=program)
    words = list(sys.argv[1:] if arguments is None else arguments)

    def invoke() -> None:
        # Not `command.main`, which exits with 1 where the reader of our output has gone.
        try:
            with command.make_context(program, words) as context:
                command.invoke(context)
        except typer.Exit as done:
            if done.exit_code:
                sys.exit(done.exit_code)
        except typer.TyperException as error:
            raise UserError(_sentence(error, program)) from error

    run_command(program, invoke)


def _sentence(error: typer.TyperException, program: str) -> str:
    """What is wrong with the arguments, and where to look them up."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()).removesuffix(".")
    message = message.replace(": Value error, ", ": ").replace(": Input should", ": it should")  # pydantic's words
    return f"{message[:1].lower()}{message[1:]} (see {context.command_path if context else program} --help)"


def run_command(program: str, main: Callable[[], None]) -> NoReturn:
    """Run a command's main function; exit 0, or 2 with one sentence for a `UserError`, 130 for Ctrl-C.

    A library that can't be imported is a fault of the installation, and gets a sentence too.

    Any other exception is a mistake of ours and keeps its traceback.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # TRL's trainers and vLLM report to their makers that they were used
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python that is started imports what happens to be in the user's folder
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"{program}: {printed(error)}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        reason = (str(error).strip().splitlines() or ["without a reason"])[0]
        print(
            f"{program}: a library can't be imported ({reason}): install what r1vlm needs together, in one command "
            "(r1vlm-train --doctor names versions that clash)",
            file=sys.stderr,
        )
        sys.exit(2)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output (head, less) has gone: not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):  # of datasets or huggingface_hub: our own locks do without
            print(
                f"{program}: a library can't lock its cache: set HF_HOME to a folder on another disk", file=sys.stderr
            )
            sys.exit(2)
        if error.errno not in DISK:
            raise
        print(f"{program}: can't write {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            f"{program}: interrupted: the same command goes on from here (r1vlm-train with --resume)", file=sys.stderr
        )
        sys.exit(130)
    sys.exit(0)


def printed(error: UserError) -> str:
    """The sentence of an error as it is printed: it may quote anything that a file says."""
    sentence = strip_secrets(visible(str(error)))
    return sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]} …"


def given_flags(context: typer.Context) -> dict[str, Any]:
    """The parameters that the command line names, by name: what is to override a configuration file."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def print_version(wanted: bool) -> None:
    """The callback of `--version`: print it, and stop."""
    if wanted:
        from importlib.metadata import version

        print(f"r1vlm {version('r1vlm')}")
        raise typer.Exit
