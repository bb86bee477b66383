"""Problems that users of other engines reported: failing, too long and rejected drafts.

Each row of ``REPORTS`` is a public report in the issue tracker of its repository. The case and the
outcome are described in our words, and the tests use inputs of our own.
"""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import tokentiming as tt
from tests.support import toys
from tests.support.reported import (
    GPT2,
    PROMPT,
    TOKENIZER,
    Reports,
    alone,
    decoder_of,
    one_thread,
    read_by,
    renumbered,
    tiny,
    told,
    written,
)
from tokentiming.drafters import Candidates, DraftRequest
from tokentiming.engine.budget import FixedBudget
from tokentiming.noise import Noise, Place, State
from tokentiming.tokens.prompts import Prompt

REPORTS = Reports(
    {
        "ggml-org/llama.cpp#17480": (
            "ids of the draft reach the target, and a draft that fails ends the request",
            "the target reads its own ids only, and goes on alone if the draft fails",
        ),
        "vllm-project/vllm#57941": (
            "a text longer than the draft's context reads past its positions and crashes",
            "the draft rests beyond its context, and the target goes on",
        ),
        "huggingface/transformers#35099": (
            "the two models are on different devices, and tensors of both meet",
            "devices may differ; one whose memory cannot be read is refused",
        ),
        "ml-explore/mlx-lm#1423": (
            "greedy text changes with a draft once a sliding window is full",
            "rejected tokens leave the window; the ids are those of generate",
        ),
        "huggingface/transformers#48280": (
            "several drafted tokens in a row break a draft's sliding window",
            "a draft that is the target itself is accepted whole past its window",
        ),
        "ml-explore/mlx-lm#1109": (
            "a recurrent state keeps rejected tokens, and the text is wrong",
            "refused by name, as target and as draft",
        ),
        "huggingface/transformers#32946": (
            "a static cache is refused together with a draft",
            "accepted; the decoder keeps a cache of its own, and the ids are the same",
        ),
        "ggml-org/llama.cpp#12635": (
            "the whole text is encoded anew for the other model in every round",
            "the work of a round is the same after 100 tokens and after 8,000",
        ),
    }
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def target():
    return tiny()


# ---- a draft that cannot continue ----


@REPORTS.met("ggml-org/llama.cpp#17480")
def test_the_target_reads_no_id_of_the_draft(target):
    pairs = [(left, right) for left in "abcdefghij" for right in "klmnopqrstuvwxyz"]
    draft_tokenizer = toys.byte_level_tokenizer(pairs)
    size = len(draft_tokenizer)
    assert size > 400
    watched = tiny()
    draft = tiny(seed=1, vocab_size=size)
    decoder = decoder_of(watched, draft, draft_tokenizer, draft_length=6)
    passes = read_by(watched)
    drafted: list[int] = []

    def watch(round_):
        drafted.extend(decoder.drafter.texts[0].context)

    ids, _ = written(decoder, PROMPT, max_new_tokens=30, watch=watch)
    assert ids == alone(target, PROMPT, max_new_tokens=30)
    assert max(drafted) >= len(TOKENIZER)
    assert max(map(max, passes)) < len(TOKENIZER)


@pytest.mark.draft_fails
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("failure", ["NaN", "template", "nothing to read", None])
@REPORTS.met("ggml-org/llama.cpp#17480")
def test_the_target_goes_on_without_a_draft_that_fails(target, failure, do_sample):
    draft, draft_tokenizer = tiny(seed=1), renumbered(TOKENIZER)
    ours = renumbered(renumbered(TOKENIZER))
    ours.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    draft_tokenizer.chat_template = ours.chat_template
    drafter = tt.ModelDrafter(draft, draft_tokenizer)
    prompt = [{"role": "system", "content": "ab"}, {"role": "user", "content": "he"}]
    if failure == "NaN":
        draft.lm_head.weight.data.fill_(torch.nan)
    elif failure == "template":
        draft_tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    elif failure == "nothing to read":
        prompt = [0]  # a special token, which has no text
    options = {"do_sample": do_sample, "max_new_tokens": 12, "seed": 1}
    expected = tt.SpeculativeDecoder(target, ours).generate(prompt, **options)
    output = tt.SpeculativeDecoder(target, ours, drafter).generate(prompt, **options)
    assert torch.equal(output.sequences, expected.sequences)
    if failure == "NaN":
        assert isinstance(output.stats.draft_failure, str)
    elif failure == "template":  # the draft may still read the target's prompt as text
        assert output.stats.draft_failure is not None or output.stats.drafted > 0
    else:
        assert output.stats.draft_failure is None
        assert failure or output.stats.drafted > 0


@pytest.mark.parametrize("prompt", ["ab", "a prompt longer than what the draft can read"])
@REPORTS.met("vllm-project/vllm#57941")
def test_a_text_longer_than_the_draft_s_context(target, prompt):
    shape = {**GPT2, "n_positions": 24, "max_position_embeddings": 24}
    draft = tiny(GPT2LMHeadModel, GPT2Config, seed=1, **shape)
    decoder = decoder_of(target, draft, draft_length=6)
    ids, stats = written(decoder, prompt, max_new_tokens=50)
    assert len(ids) == 50
    assert ids == alone(target, prompt, max_new_tokens=50)
    assert stats.drafted > 50  # also beyond the context


@REPORTS.met("huggingface/transformers#35099")
def test_a_draft_without_memory_to_read_is_refused():
    draft = tiny(seed=1).to("meta")
    with pytest.raises(ValueError, match=r"^ModelDrafter: .* is on meta.*\.to\('cpu'\)"):
        tt.ModelDrafter(draft, TOKENIZER)


@pytest.mark.parametrize(
    "places",
    [
        pytest.param(("cuda", "cpu"), marks=pytest.mark.gpu),
        pytest.param(("cpu", "cuda"), marks=pytest.mark.gpu),
        ("cpu", "cpu"),
    ],
)
@REPORTS.met("huggingface/transformers#35099")
def test_models_on_different_devices(places):
    target, draft = tiny().to(places[0]), tiny().to(places[1])
    decoder = decoder_of(target, draft, draft_length=4)
    expected = tt.SpeculativeDecoder(target, TOKENIZER).generate(PROMPT, max_new_tokens=20)
    output = decoder.generate(PROMPT, max_new_tokens=20)
    assert torch.equal(output.sequences, expected.sequences)
    assert output.stats.accepted > 0


# ---- caches ----


@pytest.mark.parametrize("window", [6, 12])
@REPORTS.met("ml-explore/mlx-lm#1423")
def test_rejections_in_a_full_sliding_window(window):
    sliding = tiny(MistralForCausalLM, MistralConfig, sliding_window=window)
    expected = alone(sliding, PROMPT, max_new_tokens=50)
    wrong = [i if n % 3 else 1 + i % 80 for n, i in enumerate(expected)]
    ids, stats = written(told(sliding, wrong, 5), PROMPT, max_new_tokens=50)
    assert ids == expected
    assert 0 < stats.accepted < stats.proposed


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@REPORTS.met("huggingface/transformers#48280")
def test_a_draft_longer_than_its_own_sliding_window(attention):
    sliding = tiny(
        MistralForCausalLM, MistralConfig, sliding_window=5, attn_implementation=attention
    )
    decoder = decoder_of(sliding, sliding, draft_length=9)
    expected = sliding.generate(
        **TOKENIZER(PROMPT, return_tensors="pt"), do_sample=False, max_new_tokens=40
    )
    output = decoder.generate(PROMPT, do_sample=False, max_new_tokens=40)
    assert torch.equal(output.sequences, expected)
    assert output.stats.acceptance_rate == 1
    assert output.stats.drafted > 30


@REPORTS.met("ml-explore/mlx-lm#1109")
def test_a_state_that_cannot_be_rolled_back_is_refused():
    shape = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    config = MambaConfig(**shape, vocab_size=len(TOKENIZER), pad_token_id=0, eos_token_id=0)
    mamba = MambaForCausalLM(config).eval()
    with pytest.raises(ValueError, match="MambaForCausalLM keeps a recurrent state"):
        tt.SpeculativeDecoder(mamba, TOKENIZER)
    with pytest.raises(ValueError, match="MambaForCausalLM keeps a recurrent state"):
        tt.ModelDrafter(mamba, TOKENIZER)


@REPORTS.met("huggingface/transformers#32946")
def test_a_static_cache_beside_a_draft(target):
    speculate = tt.custom_generate(
        draft_model=tiny(seed=1),
        draft_tokenizer=TOKENIZER,
        target_tokenizer=TOKENIZER,
        draft_length=4,
    )
    inputs = TOKENIZER(PROMPT, return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": 12}
    expected = target.generate(**inputs, **options)
    static = target.generate(
        **inputs, **options, cache_implementation="static", custom_generate=speculate
    )
    assert torch.equal(static, expected)


# ---- the cost of a round ----


def work_per_round(drafter: tt.ModelDrafter, context: int, monkeypatch) -> tuple[int, int]:
    """Maximum of bytes encoded and of tokens looked up in a round after so many tokens."""
    encoded, looked_up = [], []
    encode, token_bytes = tt.Vocabulary.encode, tt.Vocabulary.token_bytes

    def counted_encode(self, data):
        encoded.append(len(data))
        return encode(self, data)

    def counted_token_bytes(self, token):
        looked_up.append(token)
        return token_bytes(self, token)

    def choose(scores, places):
        return Candidates(scores.argmax(1, keepdim=True), torch.ones(1, 1))

    text = (b"the inner ab " * context)[:context]
    worst = (0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(tt.Vocabulary, "encode", counted_encode)
        patch.setattr(tt.Vocabulary, "token_bytes", counted_token_bytes)
        for n in range(6):  # the first reads all of the text
            requests = DraftRequest(
                text, Place(Noise(0), State(len(text))), tt.Draft(limit=3), drafter.vocabulary
            )
            drafter.propose(
                [requests], choose, lambda drafts: FixedBudget(depth=3).grow(0, drafts, [])
            )
            if n:
                worst = max(worst[0], sum(encoded)), max(worst[1], len(looked_up))
            text += b" then"
            encoded.clear()
            looked_up.clear()
    return worst


@REPORTS.met("ggml-org/llama.cpp#12635")
def test_the_cost_of_a_round_does_not_grow_with_the_text(monkeypatch):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    plain = toys.byte_level_tokenizer()
    draft = tiny(
        vocab_size=len(plain), num_key_value_heads=1, max_position_embeddings=9000, **shape
    )
    costs = []
    for context in (100, 8000):
        drafter = tt.ModelDrafter(draft, plain)
        drafter.begin(Prompt(plain("ab").input_ids, text="ab"), plain, lambda ids, scores: scores)
        costs.append(work_per_round(drafter, context, monkeypatch))
    (short_bytes, short_tokens), (long_bytes, long_tokens) = costs
    assert 0 < long_bytes <= short_bytes + 8
    assert long_tokens <= short_tokens + 8


def test_every_report_has_its_test():
    REPORTS.check()
