"""Hashes of files, and errors of disks that cannot be written to."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

from tokentiming.loading.files import error_number

# With these errors, downloading the same bytes from another source does not help.
_UNWRITABLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))


def is_unwritable(error: object) -> bool:
    """Whether an error, or its text, means that the disk is full, read-only or broken."""
    return error_number(error) in _UNWRITABLE


def sha256(path: Path, *, advance: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file; `advance` is called with the number of bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            if advance:
                advance(done)
    return digest.hexdigest()
