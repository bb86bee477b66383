"""The cost of a pass over 1 to 32 rows, for models of real shapes with random weights.

The time of a pass does not depend on the weights, so nothing is downloaded. Each model reads a text
and a chain of tokens after it, as in a round: once by ordinary passes and once by replayed CUDA
graphs. Times include the host's work. The floor is the time to read the weights that a pass uses,
at the bandwidth of a large copy in the same run; "of copy" is its share of the time.

    python bench/python/passes.py --json passes.json
"""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from timing import Seconds, copy_bandwidth, summary
from tokentiming.runners import CudaGraphRunner, TorchRunner
from tokentiming.tokens.tree import Tree

console = Console(width=100)

TEXT_LENGTH = 256
WARM_UP = 3


@dataclass(frozen=True)
class Shape:
    """A model's architecture, and the numbers of rows that its passes read."""

    config: type[LlamaConfig] | type[Qwen2Config]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def model(self, device: str) -> PreTrainedModel:
        """Random weights of half precision."""
        sizes = {
            name: value for name, value in vars(self).items() if name not in ("config", "rows")
        }
        torch.manual_seed(0)
        with torch.device(device):
            config = self.config(**sizes, max_position_embeddings=4096)
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


SHAPES = {
    "draft 0.1B": Shape(LlamaConfig, 49_152, 576, 1536, 30, 9, 3, True, rows=(1, 2, 4, 8)),
    "target 0.5B": Shape(Qwen2Config, 151_936, 896, 4864, 24, 14, 2, True),
    "target 1.5B": Shape(Qwen2Config, 151_936, 1536, 8960, 28, 12, 2, True),
    "target 7B": Shape(Qwen2Config, 152_064, 3584, 18_944, 28, 28, 4, False),
}
"""SmolLM2-135M, and Qwen2.5 of three sizes."""


@dataclass(frozen=True)
class Row:
    """A pass of one model over some rows; without a graph if it cannot be recorded."""

    model: str
    rows: int
    eager: Seconds
    graph: Seconds | None
    weight_bytes: int

    def of_copy(self, bandwidth: float) -> float:
        """The share of the bandwidth that the faster way reaches."""
        fastest = min(way.median for way in (self.eager, self.graph) if way is not None)
        return self.weight_bytes / bandwidth / fastest


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of the weights that a pass reads: all but an embedding that is not the head too."""
    total = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    embedding = model.get_input_embeddings().weight
    if model.config.tie_word_embeddings:
        return total
    return total - embedding.numel() * embedding.element_size()


def measure(
    name: str,
    shape: Shape,
    device: str,
    graph: Callable[[PreTrainedModel], CudaGraphRunner] | None,
) -> list[Row]:
    """Time the passes of one model, by ordinary passes and by the runner that ``graph`` makes."""
    model = shape.model(device)
    eager, recorded = TorchRunner(model), graph(model) if graph else None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab_size, (TEXT_LENGTH + 64,), generator=generator).tolist()
    text, after = ids[:TEXT_LENGTH], ids[TEXT_LENGTH:]
    size = weight_bytes(model)
    measured = []
    for rows in shape.rows:
        tree = Tree.chain(after[: rows - 1])  # and the last token of the text
        seconds = timed(eager, text, tree, device)
        replayed = timed(recorded, text, tree, device) if recorded else None
        if recorded and not recorded._records:  # it has warned, and runs ordinary passes
            replayed = None
        measured.append(Row(name, rows, seconds, replayed, size))
    return measured


def timed(runner: TorchRunner, text: list[int], tree: Tree, device: str) -> Seconds:
    """Seconds of a pass over the last token of a text that has been read, and over a tree."""
    settle = torch.cuda.synchronize if device == "cuda" else lambda: None

    def sample() -> float:
        settle()
        start = time.perf_counter()
        runner.read([text], [tree])
        settle()
        return time.perf_counter() - start

    once = statistics.median([sample() for _ in range(WARM_UP)][1:])
    return summary([sample() for _ in range(max(5, min(50, round(0.5 / once))))])


def show(rows: list[Row], bandwidth: float) -> None:
    table = Table("model")
    for column in ("rows", "eager ms", "graph ms", "quartiles ms", "of copy"):
        table.add_column(column, justify="right")
    for row in rows:
        best = row.graph or row.eager
        table.add_row(
            row.model,
            str(row.rows),
            f"{1e3 * row.eager.median:.3f}",
            f"{1e3 * row.graph.median:.3f}" if row.graph else "",
            f"{1e3 * best.low:.3f} .. {1e3 * best.high:.3f}",
            f"{row.of_copy(bandwidth):.0%}",
        )
    console.print(table)


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu, which has no graphs.")] = "cuda",
    only: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(SHAPES)}.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Measure each model in turn, and print a table."""
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter("--device is cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("passes.py: torch sees no CUDA device")
    names = only.split(",") if only else list(SHAPES)
    if unknown := set(names) - set(SHAPES):
        raise typer.BadParameter(f"--only: there is no {', '.join(sorted(unknown))}")
    bandwidth = copy_bandwidth(device)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            rows += measure(
                name, SHAPES[name], device, CudaGraphRunner if device == "cuda" else None
            )
        except Exception as error:  # the other models are still worth having
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"[:300]
        if device == "cuda":
            torch.cuda.empty_cache()
        if json_path is not None:
            run: dict[str, Any] = {
                "copy_bytes_per_second": bandwidth,
                "rows": [asdict(row) | {"of_copy": row.of_copy(bandwidth)} for row in rows],
                "failed": failed,
            }
            json_path.write_text(json.dumps(run, indent=1))
    show(rows, bandwidth)
    if failed:
        raise SystemExit("passes.py: failed: " + ", ".join(failed))


if __name__ == "__main__":
    typer.run(main)
