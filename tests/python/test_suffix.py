"""``SuffixDrafter``: what it drafts, and that texts are those of the target alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

import tokentiming as tt
from tests.support import toys
from tests.support.batches import PROMPTS, alone, new_ids
from tests.support.small_models import TOKENIZER, lively, tiny
from tokentiming import methods
from tokentiming.drafters import Draft, DraftRequest
from tokentiming.noise import Noise, Place, State
from tokentiming.tokens import transcode
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT

VOCABULARY = tt.Vocabulary.from_tokenizer(TOKENIZER)
GREEDY = {"do_sample": False, "max_new_tokens": 24}
TREE = tt.FixedBudget(depth=12, nodes=16, candidates=4)
BUDGETS = {"adaptive": None, "chain": tt.FixedBudget(depth=6), "tree": TREE}
CORPUS = ["to be or not to be", b"a b ab a b ab a b", "日本日本".encode()]


@pytest.fixture(scope="module")
def target():
    return tiny(seed=3)


def prompt_of(data: bytes) -> Prompt:
    return Prompt(VOCABULARY.encode(data))


def begun(drafter: tt.SuffixDrafter, *prompts: bytes) -> tt.SuffixDrafter:
    for data in prompts:
        drafter.begin(prompt_of(data), TOKENIZER, None)
    return drafter


def drafts_of(
    drafter: tt.SuffixDrafter, *texts: bytes, limit: int = 12, candidates: int = 4
) -> list[Draft]:
    requests = [
        DraftRequest(
            text,
            Place(Noise(0, 0), State()),
            Draft(limit=limit, candidates=candidates),
            tt.Vocabulary.of_bytes(),
        )
        for text in texts
    ]
    drafter.propose(requests, None, None)
    for request in requests:
        request.draft.check(drafter.vocabulary)
    return [request.draft for request in requests]


def paths_of(draft: Draft) -> list[bytes]:
    return [bytes(draft.ids[n] for n in draft.tree.path(node)) for node in range(len(draft))]


def longest(draft: Draft) -> bytes:
    return max(paths_of(draft), key=len, default=b"")


def test_what_followed_an_earlier_occurrence_is_drafted():
    (draft,) = drafts_of(begun(tt.SuffixDrafter(), b"one two three. on"), b"e tw", limit=9)
    assert paths_of(draft)[:4] == [b"o", b"o ", b"o t", b"o th"]
    later = draft.confidences[1:]  # the first is often a space
    assert later == sorted(later), "longer matches are more reliable"
    (draft,) = drafts_of(begun(tt.SuffixDrafter(), b"one two"), b" three, one t", limit=3)
    assert longest(draft) == b"wo "


def test_a_draft_of_hundreds_of_bytes_has_confidences_in_every_depth():
    drafter = begun(tt.SuffixDrafter(["x" * 1000], nodes=500), b"xx")
    (draft,) = drafts_of(drafter, b"x" * 40, limit=500, candidates=1)
    assert len(draft) == 500
    draft.check(drafter.vocabulary)


def test_paths_branch_where_texts_differ_and_the_likelier_one_is_first():
    drafter = begun(tt.SuffixDrafter(), b", see cat, see cow, see cat; see ")
    (draft,) = drafts_of(drafter, b"")
    children = [node for node, parent in enumerate(draft.parents) if parent == TEXT]
    assert [draft.ids[node] for node in children] == [ord("c")]
    after = [node for node, parent in enumerate(draft.parents) if parent == children[0]]
    assert [chr(draft.ids[node]) for node in after] == ["a", "o"]
    assert draft.confidences[after[0]] > draft.confidences[after[1]]
    (chain,) = drafts_of(drafter, b"", candidates=1)
    assert list(chain.parents) == list(range(-1, len(chain) - 1))
    assert longest(chain).startswith(b"cat")


Contexts = list[tuple[list[bytes], bytes]]


def followers(texts: list[bytes], string: bytes) -> set[bytes]:
    """The bytes that follow a string in some texts."""
    return {
        text[at + len(string) :][:1]
        for text in texts
        for at in range(len(text) - len(string))
        if text.startswith(string, at)
    }


def followed_suffix(texts: list[bytes], string: bytes, shortest: int) -> bytes | None:
    """The longest suffix of a string that is followed by a byte."""
    suffixes = (string[start:] for start in range(len(string) - shortest + 1))
    return next((suffix for suffix in suffixes if followers(texts, suffix)), None)


def all_paths(contexts: Contexts, shortest: int, depth: int) -> set[bytes]:
    """The paths to draft after a string of each group of texts, by a search of these texts."""
    paths = set()
    for byte in set().union(*(followers(*context) for context in contexts)) if depth else ():
        onward = [
            (texts, suffix)
            for texts, string in contexts
            if byte in followers(texts, string)
            if (suffix := followed_suffix(texts, string + byte, shortest)) is not None
        ]
        paths |= {byte} | {byte + path for path in all_paths(onward, shortest, depth - 1)}
    return paths


@pytest.mark.parametrize("seed", range(40))
def test_paths_are_those_of_a_search(seed, monkeypatch):
    monkeypatch.setattr("tokentiming.drafters.suffix._LEAST", 0.0)
    choose = random.Random(seed)

    def some(length: int) -> bytes:
        return bytes(choose.choice(b"ab c") for _ in range(length))

    corpus, prompt, text = [some(30), some(20)], some(30), some(choose.randrange(12))
    shortest = choose.choice([1, 2, 4])
    drafter = begun(tt.SuffixDrafter(corpus, shortest=shortest, nodes=10_000), prompt)
    depth = round(4 * drafter._texts[0].token_length)
    for end in range(0, len(text) + 1, 3):
        (draft,) = drafts_of(drafter, text[:end], candidates=256, limit=4)
        whole = prompt + text[:end]
        contexts = [
            (texts, suffix)
            for texts in ([whole], corpus)
            if (suffix := followed_suffix(texts, whole, shortest)) is not None
        ]
        paths = paths_of(draft)
        assert sorted(paths) == sorted(all_paths(contexts, shortest, depth))
        sums = Counter()
        for parent, confidence in zip(draft.parents, draft.confidences, strict=True):
            sums[parent] += confidence
        assert all(0 < total < 1 for total in sums.values())


def test_a_text_that_repeats_itself_is_drafted_beyond_its_end():
    (draft,) = drafts_of(begun(tt.SuffixDrafter(), b"x" + b"abc" * 4), b"", limit=30)
    assert longest(draft).startswith(b"abc" * 6)


@pytest.mark.parametrize("nodes", [1, 5, 40])
def test_a_draft_has_at_most_so_many_nodes(nodes):
    (draft,) = drafts_of(begun(tt.SuffixDrafter(nodes=nodes), b"abcdefgh" * 20), b"", limit=200)
    assert len(draft) == nodes


def test_no_draft_without_a_match_or_a_request():
    drafter = begun(tt.SuffixDrafter(), b"abcabc")
    assert not drafts_of(drafter, b"", limit=0)[0].ids
    assert not drafts_of(drafter, b"xyz")[0].ids
    assert longest(drafts_of(drafter, b"xyzab")[0]).startswith(b"c")


def test_matches_do_not_extend_over_special_tokens():
    drafter = tt.SuffixDrafter()
    ids = [*VOCABULARY.encode(b"one two"), 0, *VOCABULARY.encode(b" three one two")]
    drafter.begin(Prompt(ids), TOKENIZER, None)
    assert not drafts_of(drafter, b"")[0].ids  # "one two" ended there
    drafter = tt.SuffixDrafter()
    drafter.begin(Prompt([*VOCABULARY.encode(b"ab ab"), 0]), TOKENIZER, None)
    assert longest(drafts_of(drafter, b"ab")[0]).startswith(b" ab")


def test_a_level_has_as_many_bytes_as_a_token_of_the_prompt():
    words = toys.byte_level_tokenizer([("w", "o"), ("wo", "r"), ("wor", "d"), ("word", "Ġ")])
    drafter = tt.SuffixDrafter()
    drafter.begin(Prompt(words("word " * 20).input_ids), words, None)
    assert len(longest(drafts_of(drafter, b"", limit=4)[0])) == 20


@pytest.mark.parametrize(
    ("prompt", "text", "drafted"),
    [
        ("日本日", b"", "本日"),
        ("日本 日本 ", "日".encode()[:1], "日本 "),
        ("日本 日本 ", "日".encode()[:2], "日本 "),
        ("naïve naïve ", "naï".encode()[:-1], "naïve "),
    ],
)
def test_a_text_may_end_inside_a_character(prompt, text, drafted):
    (draft,) = drafts_of(begun(tt.SuffixDrafter(), prompt.encode()), text, limit=40)
    assert (text + longest(draft)).startswith(drafted.encode())
    spelled, _ = transcode.proxies(
        draft.tree, draft.confidences, tt.Vocabulary.of_bytes(), VOCABULARY
    )
    path = max((spelled.path(node) for node in range(len(spelled))), key=len)
    whole = text + VOCABULARY.decode(spelled.tokens[node] for node in path)
    assert whole.decode().startswith(drafted)  # and ends after a character


def test_each_text_has_its_own_prompt_after_a_drop_and_none_after_a_reset():
    drafter = begun(tt.SuffixDrafter(), b"ab1 ab", b"ab2 ab", b"ab3 ab")
    assert [longest(d)[:1] for d in drafts_of(drafter, b"", b"", b"")] == [b"1", b"2", b"3"]
    drafter.drop(0)
    assert [longest(d)[:1] for d in drafts_of(drafter, b"", b"")] == [b"3", b"2"]
    drafter.reset()
    assert drafts_of(drafter) == []
    assert longest(drafts_of(begun(drafter, b"ab4 ab"), b"")[0]).startswith(b"4")


def test_a_corpus_holds_texts_and_files(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"green eggs and ham")
    drafter = tt.SuffixDrafter(["blue sky", b"red wine", tmp_path / "notes.txt"], shortest=3)
    begun(drafter, b"a blue", b"a red", b"a green", b"an ape")
    drafts = drafts_of(drafter, b"", b"", b"", b"", limit=40)
    assert [longest(d) for d in drafts] == [b" sky", b" wine", b" eggs and ham", b""]
    (draft,) = drafts_of(begun(tt.SuffixDrafter(["ab", "cd"]), b"ab"), b"")
    assert not draft.ids  # texts of a corpus do not continue one another


def test_ended_texts_are_remembered_only_on_request():
    for remember in (False, True):
        drafter = begun(tt.SuffixDrafter(remember=remember), b"x", b"y")
        drafts_of(drafter, b"to be", b"or not")
        drafter.drop(0)
        begun(drafter, b"to ")
        assert [longest(d) for d in drafts_of(drafter, b"or not", b"")] == [
            b"",
            b"be" if remember else b"",
        ]


def test_a_text_is_read_once():
    drafter = begun(tt.SuffixDrafter(), b"prompt")
    text = b"some text that grows " * 50
    for end in range(0, len(text), 7):
        drafts_of(drafter, text[:end])
    read = drafter._texts[0]._own
    assert len(read) == len(b"prompt" + text[:end])
    assert read.states <= 2 * len(read)


class Reciter(toys.ToyModel):
    """Emits a given text."""

    def __init__(self, text: bytes) -> None:
        self.ids = VOCABULARY.encode(text)

    def after(self, ids):
        scores = torch.zeros(len(VOCABULARY))
        scores[self.ids[len(ids) - 2] if len(ids) - 2 < len(self.ids) else 0] = 30.0
        return scores


class Begun(tt.SuffixDrafter):
    """Takes a prompt of its own in place of the toys'."""

    def begin(self, prompt, target_tokenizer, warpers):
        super().begin(prompt_of(b"What is the question?"), TOKENIZER, warpers)


@pytest.mark.parametrize("method", ["coupled", "slem", "tli", "pushforward", "tokentiming"])
def test_a_text_that_repeats_itself_takes_few_passes(method):
    text = b"".join(b"%d green bottles hanging on the wall, and then. " % i for i in range(8))
    model = Reciter(text)
    expected = toys.decode(model, VOCABULARY, None, remaining=len(model.ids))
    budget = TREE if method in ("coupled", "slem") else tt.FixedBudget(depth=12)
    (made,) = toys.decoding(
        model, VOCABULARY, Begun(), method=method, budget=budget, remaining=len(model.ids)
    )
    assert made.new == expected
    assert made.stats.accepted > 0.7 * made.stats.tokens
    assert made.stats.tokens_per_forward > 4


@pytest.fixture(scope="module")
def expected(target) -> list[list[int]]:
    return [alone(target, prompt, **GREEDY) for prompt in PROMPTS]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("options", [{}, {"corpus": CORPUS, "remember": True, "shortest": 1}])
def test_greedy_texts_are_those_of_the_target_alone(options, budget, target, expected):
    drafter = tt.SuffixDrafter(**options)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=BUDGETS[budget])
    for _ in range(2):
        output = decoder.generate(list(PROMPTS), batch_size=3, **GREEDY)
        assert new_ids(output) == expected
        assert all(stats.draft_failure is None for stats in output.stats)
    if BUDGETS[budget]:
        assert sum(stats.accepted for stats in output.stats) > len(PROMPTS)


@pytest.mark.parametrize("method", ["coupled", "slem"])
def test_seeds_give_the_texts_of_the_target_alone(method):
    sampled = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 24, "seed": 5}
    target = lively()
    plain = tt.SpeculativeDecoder(target, TOKENIZER, method=method)
    texts = plain.generate(list(PROMPTS), batch_size=3, **sampled).sequences
    drafter = tt.SuffixDrafter(CORPUS, shortest=1)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, budget=TREE)
    output = decoder.generate(list(PROMPTS), batch_size=3, **sampled)
    assert torch.equal(output.sequences, texts)
    assert sum(stats.proposed for stats in output.stats) > 0


@pytest.mark.parametrize("method", ["tokentiming", "slrs", "tli", "pushforward"])
def test_methods_that_propose_chains_take_its_tokens_as_certain(method, target, expected):
    decoder = tt.SpeculativeDecoder(
        target, TOKENIZER, tt.SuffixDrafter(CORPUS), method=method, draft_length=6
    )
    output = decoder.generate(list(PROMPTS), **GREEDY)
    assert new_ids(output) == expected
    sampled = decoder.generate(list(PROMPTS), do_sample=True, seed=1, max_new_tokens=24)
    assert all(stats.draft_failure is None for stats in sampled.stats)
    assert sum(stats.proposed for stats in sampled.stats) > 0


class Siblings(toys.Drafter):
    """Proposes all tokens as the next one."""

    def fill(self, text, draft):
        draft.take(TEXT, [(token, 1.0) for token in range(len(self.vocabulary))])


@pytest.mark.parametrize("method", ["slrs", methods.PointMass(), "tokentiming"])
def test_a_tree_is_cut_to_a_chain_for_methods_that_propose_chains(method):
    """Rows of a tree are not those of a chain: without the cut, other tokens are emitted."""
    letters = toys.letters(["a", "b", "c", "d"])
    for seed in range(12):
        model = toys.TableModel(4, seed)
        model.table = torch.nn.functional.one_hot(model.table.argmax(-1), 4) * 50.0
        options = {"remaining": 20, "ends": False, "method": method}
        assert toys.decode(model, letters, Siblings(letters), **options) == toys.decode(
            model, letters, None, **options
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"corpus": "text"}, TypeError, "corpus is a single text; give a list of texts"),
        ({"corpus": [3]}, TypeError, "corpus holds an? int; give str, bytes or the path"),
        ({"corpus": ["\ud800"]}, ValueError, "corpus holds a text that is not valid Unicode"),
        ({"shortest": 0}, ValueError, "shortest is 0"),
        ({"nodes": 0}, ValueError, "nodes is 0"),
        ({"nodes": 2.5}, TypeError, "nodes"),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=f"^SuffixDrafter: {message}"):
        tt.SuffixDrafter(**options)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        tt.SuffixDrafter([tmp_path / "gone.txt"])


@pytest.mark.parametrize("budget", [tt.FixedBudget(depth=4), TREE])
def test_the_budget_bounds_the_children_of_a_node(budget, target):
    drafted = []

    class Watched(tt.SuffixDrafter):
        def propose(self, requests, choose, grow):
            super().propose(requests, choose, grow)
            drafted.extend(request.draft for request in requests)

    decoder = tt.SpeculativeDecoder(target, TOKENIZER, Watched(shortest=1), budget=budget)
    decoder.generate("ab. ac. ad. a", **GREEDY)
    children = [max(Counter(draft.parents).values()) for draft in drafted if draft.ids]
    assert 1 <= max(children) <= budget.candidates
    assert (max(children) > 1) == (budget is TREE)
