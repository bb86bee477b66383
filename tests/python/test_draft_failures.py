"""After any failure of a draft the target continues alone and reports the failure."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from tokenizers import AddedToken

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import TOKENIZER, lively
from tokentiming.devices import send
from tokentiming.tokens import vocabulary_map
from tokentiming.tokens.prompts import parse

METHODS = tuple(tt.methods.METHODS)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "to be"}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def target():
    return lively()


def greedy(decoder: tt.SpeculativeDecoder, prompt, **options) -> tt.SpeculativeOutput:
    return decoder.generate(prompt, do_sample=False, max_new_tokens=12, **options)


def alone(target, prompt, tokenizer=TOKENIZER) -> list[list[int]]:
    return greedy(tt.SpeculativeDecoder(target, tokenizer), prompt).sequences.tolist()


class Failing(tt.ModelDrafter):
    """Raises in its n-th round."""

    def __init__(self, *args, after: int) -> None:
        super().__init__(*args)
        self.after = after

    def propose(self, *args):
        self.after -= 1
        if self.after < 0:
            raise RuntimeError("the card fell off the bus")
        return super().propose(*args)


@pytest.mark.draft_fails
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [0, 2])
def test_an_error_leaves_the_text_to_the_target(method, after, target, caplog):
    drafter = Failing(lively(1), TOKENIZER, after=after)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, draft_length=2)
    output = greedy(decoder, "to be")
    assert output.sequences.tolist() == alone(target, "to be")
    assert output.stats.draft_failure == "RuntimeError: the card fell off the bus"
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in said] == [
        "generate: the draft failed and the target goes on alone "
        "(RuntimeError: the card fell off the bus)"
    ]
    drafter.after = 1000
    assert greedy(decoder, "to be").stats.draft_failure is None  # the next text may try again


@pytest.mark.draft_fails
@pytest.mark.parametrize(
    "draft",
    [
        None,
        ["a", "b"],
        3,
        [99999],
        [-5],
        [5.5],
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_an_invalid_draft_leaves_the_text_to_the_target(method, draft, target):
    class Odd(toys.Drafter):
        def fill(self, text, filled):
            filled.extend(draft)

    drafter = Odd(tt.Vocabulary.from_tokenizer(TOKENIZER))
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method)
    output = greedy(decoder, "to be")
    assert output.sequences.tolist() == alone(target, "to be")
    assert output.stats.draft_failure is not None


@pytest.mark.draft_fails
@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"do_sample": True, "seed": 1}])
@pytest.mark.parametrize("method", METHODS)
def test_logits_that_hold_nan(method, sampling, target):
    draft = lively(1)
    with torch.no_grad():
        draft.lm_head.weight[40] = torch.nan
    decoder = tt.SpeculativeDecoder(
        target, TOKENIZER, tt.ModelDrafter(draft, TOKENIZER), method=method
    )
    plain = tt.SpeculativeDecoder(target, TOKENIZER, method=method)
    options = {"max_new_tokens": 12, **sampling}
    output = decoder.generate("to be", **options)
    assert output.stats.proposed == 0
    assert "NaN" in output.stats.draft_failure
    assert output.sequences.tolist() == plain.generate("to be", **options).sequences.tolist()


@pytest.mark.draft_fails
def test_an_interruption_is_not_a_failure_of_the_draft(target):
    class Interrupted(tt.ModelDrafter):
        def propose(self, *args):
            raise KeyboardInterrupt

    decoder = tt.SpeculativeDecoder(target, TOKENIZER, Interrupted(lively(1), TOKENIZER))
    with pytest.raises(KeyboardInterrupt):
        greedy(decoder, "to be")


# ---- prompts ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_draft_with_nothing_to_read_waits_for_text(method, dtype):
    """The target's prompt is its beginning of text alone, and the draft has none."""
    tokenizer = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
    tokenizer.bos_token = "<eos>"
    target = lively(bos_token_id=0, pad_token_id=257)
    drafter = tt.ModelDrafter(lively(1).to(dtype), toys.byte_level_tokenizer([("b", "c")]))
    decoder = tt.SpeculativeDecoder(target, tokenizer, drafter, method=method, draft_length=3)
    output = greedy(decoder, [0], eos_token_id=258)
    assert output.sequences.tolist() == [
        target.generate(do_sample=False, max_new_tokens=12, eos_token_id=258)[0].tolist()
    ]
    assert output.stats.proposed > 0
    speculate = tt.custom_generate(
        draft_model=lively(1).to(dtype), draft_tokenizer=drafter.tokenizer,
        target_tokenizer=tokenizer, method=method,
    )  # fmt: skip
    ids = target.generate(
        do_sample=False, max_new_tokens=12, eos_token_id=258, custom_generate=speculate
    )
    assert ids.tolist() == output.sequences.tolist()


class Templates:
    """Chat templates of drafts that refuse messages which targets accept."""

    NO_SYSTEM = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + TEMPLATE
    )
    NEEDS_CONTENT = "{% for m in messages %}{{ m['content'] + '' }}{% endfor %}"
    BROKEN = "{% for m in"


@pytest.mark.parametrize("template", [Templates.NO_SYSTEM, Templates.BROKEN])
def test_a_chat_template_that_refuses_the_messages(template, target, caplog):
    tokenizer = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
    tokenizer.chat_template = TEMPLATE
    draft_tokenizer = toys.byte_level_tokenizer()
    draft_tokenizer.chat_template = template
    drafter = tt.ModelDrafter(lively(1), draft_tokenizer)
    decoder = tt.SpeculativeDecoder(target, tokenizer, drafter)
    prompts = []
    output = greedy(
        decoder,
        MESSAGES,
        watch=lambda round_: prompts.append(draft_tokenizer.decode(drafter.texts[0].prompt)),
    )
    assert output.sequences.tolist() == alone(target, MESSAGES, tokenizer)
    assert output.stats.proposed > 0
    assert set(prompts) == {"<system>Be brief.<user>to be"}
    assert "the draft's chat template refuses the messages" in caplog.text


def test_a_tool_call_without_content_reaches_a_draft_without_template(target):
    tokenizer = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{% endfor %}"
    drafter = tt.ModelDrafter(lively(1), toys.byte_level_tokenizer())
    decoder = tt.SpeculativeDecoder(target, tokenizer, drafter)
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    messages = [*MESSAGES, call, {"role": "tool", "content": "7"}]
    output = greedy(decoder, messages)
    assert output.stats.draft_failure is None
    assert output.stats.proposed > 0
    draft_tokenizer = toys.byte_level_tokenizer()
    draft_tokenizer.chat_template = Templates.NEEDS_CONTENT
    decoder.drafter = tt.ModelDrafter(lively(1), draft_tokenizer)
    again = greedy(decoder, messages)
    assert again.sequences.tolist() == output.sequences.tolist()
    assert again.stats.draft_failure is None


def chat_tokenizer(*specials: str):
    tokenizer = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(text, special=True) for text in specials]}
    )
    return tokenizer


def test_special_tokens_of_a_prompt_map_by_text_or_by_role():
    ours = chat_tokenizer("<|im_start|>", "<|only_here|>")
    theirs = chat_tokenizer("<|other|>", "<|im_start|>")
    vocabulary = tt.Vocabulary.from_tokenizer(theirs)
    text = "<|im_start|>user\nto be<|only_here|><eos><|im_start|>x"
    ids = ours.encode(text)
    (prompt,) = parse(ids, ours)
    found = prompt.ids_for(theirs, vocabulary, ours)
    assert theirs.decode(found) == "<|im_start|>user\nto be<eos><|im_start|>x"
    assert theirs.convert_tokens_to_ids("<|im_start|>") in found
    same = prompt.ids_for(ours, tt.Vocabulary.from_tokenizer(ours), ours)
    assert same == ids
    ending = chat_tokenizer("<|end|>")
    ending.eos_token = "<|end|>"
    (prompt,) = parse(ending.encode("to be<|end|>"), ending)
    assert theirs.decode(prompt.ids_for(theirs, vocabulary, ending)) == "to be<eos>"


def test_a_model_that_drafts_for_itself_reads_a_prompt_of_ids_unchanged():
    tokenizer = chat_tokenizer("<|im_start|>")
    model = lively(vocab_size=len(tokenizer))
    decoder = tt.SpeculativeDecoder(
        model, tokenizer, tt.ModelDrafter(model, tokenizer), draft_length=4
    )
    output = greedy(decoder, tokenizer.encode("<|im_start|>user\nto be<|im_start|>"))
    assert output.stats.acceptance_rate == 1


@pytest.mark.draft_fails
def test_a_draft_prompt_that_its_model_cannot_read(target):
    """The tokenizer has a special token for which the model has no row."""
    draft_tokenizer = chat_tokenizer("<|im_start|>")
    draft_tokenizer.chat_template = "<|im_start|>{{ messages[0].content }}"
    tokenizer = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
    tokenizer.chat_template = TEMPLATE
    decoder = tt.SpeculativeDecoder(target, tokenizer, tt.ModelDrafter(lively(1), draft_tokenizer))
    output = greedy(decoder, MESSAGES)
    assert output.sequences.tolist() == alone(target, MESSAGES, tokenizer)
    assert "IndexError" in output.stats.draft_failure


# ---- the map, and devices of tensors ----


@pytest.mark.parametrize("method", ["tli", "pushforward", "slrs", "tokentiming"])
@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
def test_a_map_that_cannot_be_written_is_kept_in_memory(
    method, place, target, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(vocabulary_map, "_WORTH_A_FILE", 0)
    (tmp_path / "file").write_text("")
    if place == "read-only":

        def refuse(*args, **kwargs):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(vocabulary_map, "NamedTemporaryFile", refuse)
        monkeypatch.setenv("TOKENTIMING_CACHE", str(tmp_path / "cache"))
    else:
        folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "folder"
        monkeypatch.setenv("TOKENTIMING_CACHE", str(folder))
    drafter = tt.ModelDrafter(lively(1), toys.byte_level_tokenizer([("t", "o")]))
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, draft_length=3)
    output = decoder.generate("to be", do_sample=True, max_new_tokens=20, seed=0)
    assert output.stats.proposed > 0
    assert "the map cannot be kept in a file" in caplog.text
    assert "TOKENTIMING_CACHE" in caplog.text


def test_a_cache_folder_without_a_home_is_not_a_failure(target, monkeypatch):
    monkeypatch.setattr(vocabulary_map, "_WORTH_A_FILE", 0)
    for name in ("TOKENTIMING_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    drafter = tt.ModelDrafter(lively(1), toys.byte_level_tokenizer([("t", "o")]))
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method="tli")
    assert decoder.generate("to be", do_sample=True, max_new_tokens=4).stats.tokens == 4


class Recorder(torch.Tensor):
    """Notes how it is sent, as a tensor on a GPU would be."""

    sent: list

    def to(self, device, non_blocking=False):
        self.sent.append((torch.device(device).type, non_blocking))
        return self


def test_copies_to_the_host_block():
    tensor = torch.zeros(2).as_subclass(Recorder)
    tensor.sent = []
    send(tensor, torch.device("cpu"))
    send(tensor, torch.device("cuda"))
    assert tensor.sent == [("cpu", False), ("cuda", True)]
