"""What the system says of files and folders, as errors that name the path and the way out."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tokentiming.cli.demo_models.files import ModelError

# Of these no other source of the same bytes is the remedy.
_UNWRITABLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")


@contextmanager
def told(what: str, way_out: str) -> Iterator[None]:
    """Raise what the system refuses meanwhile as a ModelError: ``what``, its words, ``way_out``."""
    try:
        yield
    except (ModelError, ConnectionError):  # the latter is about a pipe or the network
        raise
    except Exception as error:
        number = error_number(error)
        if number is None:
            raise
        words = os.strerror(number)
        if number == errno.EEXIST:  # of mkdir: something other than a folder is there
            words = os.strerror(errno.ENOTDIR)
        place = getattr(error, "filename", None)
        where = f": '{os.fsdecode(place)}'" if isinstance(place, (str, bytes, os.PathLike)) else ""
        raise ModelError(f"{what}: {words}{where}; {way_out}") from error


def error_number(error: object) -> int | None:
    """The system's number of an error; libraries in Rust, and pip, tell it in the text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER_IN_TEXT.search(str(error))
    return int(found[1] or found[2]) if found else None


def is_unwritable(error: object) -> bool:
    """Whether an error, or the text of one, means that the disk is full, read-only or broken."""
    return error_number(error) in _UNWRITABLE
