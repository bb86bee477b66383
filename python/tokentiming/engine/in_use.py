"""Decoders, drafters and streamers keep state and serve one call at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any


class InUseError(RuntimeError):
    """An object with state is held by another call."""


_lock = Lock()
_in_use: dict[int, str] = {}


def _forget() -> None:
    """Clear the table after a fork: calls of the parent process do not run in the child."""
    global _lock
    _lock = Lock()
    _in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def exclusive(**objects: Any) -> Iterator[None]:
    """Hold objects for the duration of one call.

    One table holds all objects in use. A user's own drafter or streamer then needs no lock, and
    can be copied. None is ignored.

    Args:
        **objects: by the names used in the error; a list holds several.

    Raises:
        InUseError: another call holds one of them, in another thread or further up the stack.
    """
    wanted = {
        id(one): name
        for name, held in objects.items()
        for one in (held if isinstance(held, list) else [held])
        if one is not None
    }
    with _lock:
        for identity, name in wanted.items():
            if identity in _in_use:
                raise InUseError(
                    f"generate: this {name} is in use by another call and serves one at a time; "
                    "give each thread, and each call from a callback, a decoder, drafter and "
                    "streamer of its own (they may share the models)"
                )
        _in_use.update(wanted)
    try:
        yield
    finally:
        with _lock:
            for identity in wanted:
                del _in_use[identity]
