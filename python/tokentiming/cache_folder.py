"""Where TokenTiming keeps files between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$TOKENTIMING_CACHE, or $XDG_CACHE_HOME/tokentiming, or ~/.cache/tokentiming.

    Raises:
        ValueError: a home folder is needed and the system knows none.
    """
    own = os.environ.get("TOKENTIMING_CACHE")
    root = Path(own or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tokentiming")
    try:
        return root.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(
            f"cache_folder: '{root}' names no folder: {str(error).rstrip('.')}; "
            "set TOKENTIMING_CACHE to the absolute path of a folder"
        ) from error
