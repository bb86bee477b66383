"""Suppression of what transformers prints while the command line draws on the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide the progress bars of transformers; those of the hub's client show downloads and stay."""
    shown, hub_shown = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # disables the hub's too
    if hub_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if not hub_shown:
            disable_progress_bars()


@contextmanager
def silent() -> Iterator[None]:
    """Hide progress bars, advice and warnings."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_bars(), redirect_stderr(io.StringIO()):  # the GGUF reader's bar ignores settings
            yield
    finally:
        logging.set_verbosity(verbosity)
