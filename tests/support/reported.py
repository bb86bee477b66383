"""Shared by the tests of public reports: a table of them, tiny models, a drafter with a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import tokentiming as tt
from tests.support import toys

Test = TypeVar("Test", bound=Callable[..., None])


class Reports:
    """Public reports, each with its case and our outcome, and the tests that show the outcome.

    Args:
        rows: ``owner/repository#number`` -> the case and the outcome, a line each.
    """

    def __init__(self, rows: dict[str, tuple[str, str]]) -> None:
        self._rows = rows
        self._tests: dict[str, list[str]] = {}

    def met(self, *numbers: str) -> Callable[[Test], Test]:
        """Assign reports to a test."""

        def tie(test: Test) -> Test:
            for number in numbers:
                self._tests.setdefault(number, []).append(test.__name__)
            return test

        return tie

    def check(self) -> None:
        """Assert that each report has a test, and each test a report."""
        assert set(self._tests) == set(self._rows)
        for number, (case, outcome) in self._rows.items():
            repository, _, digits = number.partition("#")
            assert repository.count("/") == 1
            assert digits.isdigit()
            assert case
            assert outcome


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: for tiny models several threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TOKENIZER = toys.byte_level_tokenizer(
    [("a", "b"), ("Ġ", "a"), ("e", "r"), ("t", "h"), ("th", "e"), ("i", "n")]
)
OTHER = toys.byte_level_tokenizer([("b", "c"), ("a", "bc"), ("h", "e"), ("Ġ", "t"), ("t", "he")])
PROMPT = "the inner ab the"
SHAPE = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 0,
}


GPT2 = {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0}
"""Changes that make SHAPE one of GPT-2, whose positions are learned."""


def tiny(kind=LlamaForCausalLM, config=LlamaConfig, *, seed: int = 0, **changes):
    """A random model in float32, by default with one row of its head for each id of TOKENIZER."""
    torch.manual_seed(seed)
    return kind(config(**{**SHAPE, **changes})).eval()


def twin(model: PreTrainedModel, rows: Sequence[int]) -> PreTrainedModel:
    """The same model, whose token ``i`` is token ``rows[i]`` of the original."""
    double = tiny(vocab_size=len(rows))
    state = model.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][list(rows)]
    double.load_state_dict(state)
    return double


def renumbered(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokens in reverse order, except the end of turn: ``i`` becomes ``N - i``."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    state["model"]["vocab"] = {piece: -i % len(vocab) for piece, i in vocab.items()}
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


class Told(toys.Drafter):
    """Proposes given ids of the target's own vocabulary."""

    def __init__(self, vocabulary: tt.Vocabulary, ids: Sequence[int]) -> None:
        super().__init__(vocabulary)
        self._ids = list(ids)
        lengths = (len(vocabulary.token_bytes(i)) for i in ids)
        self._starts = [0, *accumulate(lengths)]

    def fill(self, text: bytes, draft: tt.Draft) -> None:
        first = next((i for i, start in enumerate(self._starts) if start >= len(text)), None)
        draft.extend([] if first is None else self._ids[first : first + draft.limit])


ENGLISH = {
    "suppress_tokens": [
        i for i in range(len(TOKENIZER)) if not TOKENIZER.decode([i]).isascii() or i == 0
    ],
    "no_repeat_ngram_size": 1,
    "do_sample": False,
}
"""Options of ``generate`` under which a random model writes ASCII, each token once."""


def alone(target: PreTrainedModel, prompt: str, **options) -> list[int]:
    """The new ids of ``target.generate``."""
    inputs = TOKENIZER(prompt, return_tensors="pt")
    ids = target.generate(**inputs, **{**ENGLISH, "max_new_tokens": 20, **options})
    return ids[0, inputs.input_ids.shape[1] :].tolist()


def told(
    target: PreTrainedModel, ids: Sequence[int], draft_length: int = 12
) -> tt.SpeculativeDecoder:
    """A decoder whose drafts are these ids, from the beginning of the text on."""
    vocabulary = tt.SpeculativeDecoder(target, TOKENIZER).vocabulary
    return tt.SpeculativeDecoder(
        target, TOKENIZER, Told(vocabulary, ids), draft_length=draft_length
    )


def written(decoder: tt.SpeculativeDecoder, prompt: str, **options) -> tuple[list[int], tt.Stats]:
    """The new ids of ``decoder.generate`` under the same options as ``alone``, and its stats."""
    output = decoder.generate(prompt, **{**ENGLISH, "max_new_tokens": 20, **options})
    return output.sequences[0, len(TOKENIZER(prompt).input_ids) :].tolist(), output.stats


def decoder_of(target, draft, draft_tokenizer=TOKENIZER, **options) -> tt.SpeculativeDecoder:
    """A decoder of a target with TOKENIZER and a draft with any."""
    drafter = tt.ModelDrafter(draft, draft_tokenizer)
    return tt.SpeculativeDecoder(target, TOKENIZER, drafter, **options)


def speculation(**options) -> Callable[..., Any]:
    """A callable for ``generate(custom_generate=...)`` with a draft of another vocabulary."""
    draft = tiny(seed=1, vocab_size=len(OTHER))
    return tt.custom_generate(
        draft_model=draft,
        draft_tokenizer=OTHER,
        target_tokenizer=TOKENIZER,
        **{"draft_length": 4, **options},
    )


def read_by(model: PreTrainedModel) -> list[list[int]]:
    """Filled with the ids of each forward pass to come."""
    passes: list[list[int]] = []
    model.register_forward_pre_hook(lambda model, rows: passes.append(rows[0][0].tolist()))
    return passes
