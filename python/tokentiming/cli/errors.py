"""Errors of commands: one line on standard error that says what to do, and an exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from tokentiming.cli.demo_models.disk import is_unwritable
from tokentiming.cli.views import console

# The library's own errors begin with the name of a function: "generate: prompt is empty; ...".
_OWN = re.compile(r"(tokentiming\.)?[A-Za-z_][\w.]*: ")
_TRACEBACK = "for the traceback, run tokentiming --traceback ..."
_OWN_TYPES = (ValueError, TypeError, NotImplementedError, ImportError)


class OneLineErrors(TyperGroup):
    """A group of commands that ends with a one-line error; ``--traceback`` shows all of it."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _one_line_errors(traceback=False):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _one_line_errors(traceback=bool(ctx.params.get("traceback"))):
            result = super().invoke(ctx)
            sys.stdout.flush()  # raises on a full disk now rather than at exit
            return result


@contextmanager
def _one_line_errors(traceback: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.note("interrupted; finished downloads are kept")
        raise typer.Exit(130) from None
    # BrokenPipeError: typer ends the program quietly, as in `| head`
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        is_usage = hasattr(error, "format_message")
        if is_usage and type(error).__name__ == "NoArgsIsHelpError":  # typer prints the help
            raise
        if traceback and not is_usage:
            raise
        message, code = _usage(error) if is_usage else _message(error)
        console.error(message)
        raise typer.Exit(code) from error


def _usage(error: Any) -> tuple[str, int]:
    """Message and exit code of an error in the arguments, with the command's name in front."""
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
    """Message and exit code of an error: 2 if the user can fix it, 1 if it may be a bug."""
    text = str(error)
    if isinstance(error, _OWN_TYPES) and _OWN.match(text):
        return text, 2
    if type(error).__module__.startswith("jinja2."):
        return f"a model's chat template rejects the prompt: {text}; use generate --raw", 2
    if isinstance(error, OSError) and error.filename is not None:
        path = os.fsdecode(error.filename)
        return f"'{path}' cannot be used: {error.strerror}; {_TRACEBACK}", 2
    if isinstance(error, OSError) and is_unwritable(error):  # without a name it is a stream
        _drop_output()
        return f"standard output cannot be written: {error.strerror}; redirect it elsewhere", 2
    return f"{type(error).__name__}: {text}; this may be a bug; {_TRACEBACK}", 1


def _drop_output() -> None:
    """Discard buffered output: Python would try to write it at exit, and print another error."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
