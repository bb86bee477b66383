"""Which share of a target's tokens a draft can propose: by equal strings, and by equal bytes.

transformers and vLLM intersect two vocabularies by their tokens' strings. A byte-level BPE spells
bytes by stand-in characters and a SentencePiece vocabulary does not, so that equal strings may be
unequal bytes, and most tokens that are not ASCII are missing. TokenTiming compares bytes.

Each text is encoded by the target. A token counts each time it occurs, and it can be proposed if a
token of the draft maps to it. Strings are compared as in transformers' TLI, which also replaces the
sign for a leading space. A pair of equal strings with unequal bytes does not count.

    python bench/python/byte_table.py

prints the table; ``--json`` writes the shares. Only tokenizers are loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import tokentiming as tt
from tokentiming import loading
from tokentiming.cli import demo_models as models

TEXTS = Path(__file__).parent.parent / "data" / "texts"
KINDS = {
    "English": "english.txt",
    "Python": "code.txt",
    "Markdown": "markdown.md",
    "Chinese": "chinese.txt",
    "Russian": "russian.txt",
    "German": "german.txt",
}
QWEN, GEMMA, SMOLLM = "qwen2.5-coder-1.5b", "gemma-3-270m", "smollm2-135m"
PAIRS = ((GEMMA, QWEN), (SMOLLM, GEMMA), (GEMMA, SMOLLM), (SMOLLM, QWEN))
"""Drafts and targets."""


def by_strings(draft: Any, target: Any) -> dict[int, int]:
    """Draft and target ids of equal strings, as transformers' TLI maps them.

    If two draft tokens get the same string, transformers keeps one of them, which depends on the
    order of a hash table. Here both count.
    """
    sign, target_sign = space_sign(draft), space_sign(target)
    pieces = target.get_vocab()
    found = {}
    for piece, token in draft.get_vocab().items():
        string = piece.replace(sign, target_sign, 1) if piece.startswith(sign) else piece
        if string in pieces:
            found[token] = pieces[string]
    return found


def space_sign(tokenizer: Any) -> str:
    """The character that stands for a space."""
    return tokenizer.convert_ids_to_tokens(tokenizer(" ", add_special_tokens=False).input_ids)[0][0]


def shares(draft: Any, target: Any) -> dict[str, tuple[float, float]]:
    """Of each kind of text the shares by strings and by bytes.

    Args:
        draft: a tokenizer.
        target: a tokenizer.
    """
    drafting, verifying = (tt.Vocabulary.from_tokenizer(one) for one in (draft, target))
    strings = {
        token
        for drafted, token in by_strings(draft, target).items()
        if drafting.token_bytes(drafted) == verifying.token_bytes(token)
    }
    exact = tt.VocabularyMap.build(drafting, verifying).exact
    both = (strings, {token for token in exact.tolist() if token >= 0})
    found = {}
    for kind, name in KINDS.items():
        ids = verifying.encode((TEXTS / name).read_bytes())
        share = [sum(token in proposed for token in ids) / len(ids) for proposed in both]
        found[kind] = (share[0], share[1])
    return found


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write shares here.")] = None,
) -> None:
    """Print a table of all pairs."""
    names = dict.fromkeys(name for pair in PAIRS for name in pair)
    tokenizers = {name: loading.load_tokenizer(models.resolve(name)) for name in names}
    found = {pair: shares(*(tokenizers[name] for name in pair)) for pair in PAIRS}
    table = Table(title="percent of the target's tokens: by strings / by bytes")
    for column in ("draft", "target", *KINDS):
        table.add_column(column, justify="left" if column in ("draft", "target") else "right")
    for pair, of_pair in found.items():
        cells = [f"{strings:.0%} / {by_bytes:.0%}" for strings, by_bytes in of_pair.values()]
        table.add_row(*pair, *cells)
    Console(width=120).print(table)
    if json_path is not None:
        rows = [
            {"draft": draft, "target": target, "kind": kind, "strings": strings, "bytes": by_bytes}
            for (draft, target), of_pair in found.items()
            for kind, (strings, by_bytes) in of_pair.items()
        ]
        json_path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
