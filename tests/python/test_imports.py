"""What the package imports: the library nothing of the command line or of the benchmark, and heavy
packages only when needed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import tokentiming

PACKAGE = Path(tokentiming.__file__).parent
LIBRARY = sorted(
    path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts
)
NOT_BENCH = [path for path in LIBRARY if "bench" not in path.relative_to(PACKAGE).parts]


def imported(source: str, package: str) -> Iterator[str]:
    """Full names of everything that a module of `package` imports, also inside functions.

    Strings that name a module of the package count too, since `import_module` takes them.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join(base) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
            yield f"tokentiming.{node.value}"


def is_in(package: str, name: str) -> bool:
    return name == f"tokentiming.{package}" or name.startswith(f"tokentiming.{package}.")


is_cli = partial(is_in, "cli")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_does_not_import_the_command_line(path: Path) -> None:
    package = ".".join(("tokentiming", *path.relative_to(PACKAGE).parent.parts))
    assert [name for name in imported(path.read_text("utf-8"), package) if is_cli(name)] == []


@pytest.mark.parametrize("path", NOT_BENCH, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_does_not_import_the_benchmark(path: Path) -> None:
    package = ".".join(("tokentiming", *path.relative_to(PACKAGE).parent.parts))
    names = imported(path.read_text("utf-8"), package)
    assert [name for name in names if is_in("bench", name)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import tokentiming.cli",
        "import tokentiming.cli.demo_models as models",
        "from tokentiming import cli",
        "from tokentiming.cli import demo_models",
        "from tokentiming.cli.demo_models import pull",
        "from . import cli",
        "from .cli import demo_models",
        "def f():\n    from tokentiming.cli import app",
        "import_module('tokentiming.cli')",
        "MODULES = {'pull': 'cli.demo_models'}",
    ],
)
def test_every_kind_of_import_is_found(source: str) -> None:
    assert any(is_cli(name) for name in imported(source, "tokentiming"))


def test_a_relative_import_of_a_parent_is_found() -> None:
    assert any(is_cli(name) for name in imported("from .. import cli", "tokentiming.engine"))
    assert not any(is_cli(name) for name in imported("from . import cli", "tokentiming.engine"))


OPTIONAL = ("transformers", "gguf", "accelerate", "filelock", "typer", "rich", "tokentiming.cli")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("tokentiming", ("torch", *OPTIONAL)),
        ("tokentiming.ops", OPTIONAL),
        ("tokentiming.tokens", OPTIONAL),
        ("tokentiming.loading", ("gguf", "typer", "rich", "tokentiming.cli")),
    ],
)
def test_an_import_loads_no_heavy_package(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"
