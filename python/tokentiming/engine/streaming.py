"""Streamers and callbacks, which receive a text while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tokentiming.engine.in_use import InUseError
from tokentiming.engine.request import Round


@contextmanager
def ended_on_error(streamer: Any) -> Iterator[None]:
    """End a streamer when a call fails; otherwise its reader would wait forever.

    A streamer in use belongs to another call, and is left alone.
    """
    try:
        yield
    except InUseError:
        raise
    except BaseException:
        if hasattr(streamer, "end"):
            streamer.end()
        raise


def announce(streamer: Any, watch: Callable[[Round], None] | None) -> Callable[[Round], None]:
    """A function that passes each round to the streamer and to the callback."""

    def tell(round_: Round) -> None:
        if streamer is not None:
            streamer.put(torch.tensor(round_.tokens, device="cpu"))
        if watch is not None:
            watch(round_)

    return tell
