"""How a command ends that cannot do what it was told: with one line, and what to do about it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from tokentiming.cli import display
from tokentiming.cli.demo_models.disk import is_unwritable

# The library's own errors begin with the name of a function: "generate: prompt is empty; ...".
_OWN = re.compile(r"(tokentiming\.)?[A-Za-z_][\w.]*: ")
_WHERE = "to see where it arose, run tokentiming --traceback ..."
_KINDS = (ValueError, TypeError, NotImplementedError)


class Polite(TyperGroup):
    """A program that ends without a traceback, unless ``--traceback`` asks for it."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _one_line(traceback=False):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _one_line(traceback=bool(ctx.params.get("traceback"))):
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk shows here, and not after the end
            return result


@contextmanager
def _one_line(traceback: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        display.note("stopped; what was finished is kept")
        raise typer.Exit(130) from None
    # `| head` has seen enough: typer ends the program quietly
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        is_usage = hasattr(error, "format_message")
        if is_usage and type(error).__name__ == "NoArgsIsHelpError":  # typer prints the help
            raise
        if traceback and not is_usage:
            raise
        message, code = _usage(error) if is_usage else _message(error)
        display.error(message)
        raise typer.Exit(code) from error


def _usage(error: Any) -> tuple[str, int]:
    """What typer says of the arguments, after the command's name."""
    names: list[str] = []
    context = error.ctx
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    command = " ".join(names)
    message = error.format_message().rstrip(".")
    way_out = "see " + " ".join(("tokentiming", *names, "--help"))
    return f"{command + ': ' if command else ''}{message}; {way_out}", 2


def _message(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code: 2 if the user can mend it, 1 if it is a bug."""
    words = str(error)
    if isinstance(error, _KINDS) and _OWN.match(words):
        return words, 2
    if type(error).__module__.startswith("jinja2."):
        return f"a model's chat template refuses the prompt: {words}; generate takes --raw", 2
    if isinstance(error, OSError) and error.filename is not None:
        path = os.fsdecode(error.filename)
        return f"'{path}' cannot be used: {error.strerror}; {_WHERE}", 2
    if isinstance(error, OSError) and is_unwritable(error):  # nothing that was opened by a name
        _drop_output()
        return f"standard output cannot be written: {error.strerror}; send it elsewhere", 2
    return (
        f"{type(error).__name__}: {words}; this may be a bug; {_WHERE}",
        1,
    )


def _drop_output() -> None:
    """Python would try once more to write what is left, and print another error at its end."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
