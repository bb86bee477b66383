"""The systems of the benchmark on small models, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import tokentiming
from tests.support import toys
from tests.support.small_models import TOKENIZER, lively
from tokentiming import cli
from tokentiming.bench.pair import Pair
from tokentiming.bench.selection import systems, uses_draft
from tokentiming.bench.systems import Generated

DRAFT_TOKENIZER = toys.byte_level_tokenizer([("t", "h"), ("i", "n"), ("e", "r")])
TEXTS = ["in the", "ab b a b"]


def draft() -> tuple:
    return lively(seed=1, vocab_size=len(DRAFT_TOKENIZER)), DRAFT_TOKENIZER


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(lambda: (lively(), TOKENIZER), draft)


def named(pair: Pair, **names: str) -> dict:
    chosen = {"methods": "coupled", "drafters": "model", "peers": "none"} | names
    found = systems(pair, **{name: listed.split(",") for name, listed in chosen.items()})
    return {system.name: system for system in found}


def generated(system, temperature: float = 0.0, texts=TEXTS) -> Generated:
    return system.generate(texts, length=9, temperature=temperature, seed=3)


def test_all_systems_generate_the_greedy_ids_of_the_target(pair: Pair) -> None:
    found = named(pair, peers="assisted,prompt-lookup")
    for text in TEXTS:
        expected = generated(found["generate"], texts=[text])
        assert len(expected.ids[0]) == 9
        assert expected.forwards == 9
        for name in ("alone", "greedy/model", "assisted", "prompt-lookup"):
            assert generated(found[name], texts=[text]).ids == expected.ids, name
            assert found[name].runs_at(0.0)


def test_batches_generate_the_same_ids(pair: Pair) -> None:
    found = named(pair)
    expected = [generated(found["generate"], texts=[text]).ids[0] for text in TEXTS]
    for name in ("generate", "alone", "greedy/model"):
        assert generated(found[name]).ids == expected, name


def test_a_text_ends_at_its_end_of_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively()
    pair = Pair(lambda: (model, TOKENIZER), draft)
    found = named(pair)
    ids = generated(found["generate"]).ids[0]
    model.generation_config.eos_token_id = [0, ids[4]]
    for name in ("generate", "alone"):
        ended = generated(named(pair)[name]).ids
        assert ended[0] == ids[: ids.index(ids[4]) + 1]
        assert len(ended[1]) == 9


def test_methods_are_one_system_if_greedy(pair: Pair) -> None:
    found = named(pair, methods="coupled,slem", peers="none")
    assert list(found) == ["generate", "alone", "greedy/model", "coupled/model", "slem/model"]
    assert [name for name in found if found[name].runs_at(0.0)] == list(found)[:3]
    assert [name for name in found if found[name].runs_at(1.0)] == [
        "generate", "alone", "coupled/model", "slem/model"
    ]  # fmt: skip


def test_sampling_follows_the_seed(pair: Pair) -> None:
    found = named(pair)
    alone = generated(found["alone"], 1.0)
    ours = generated(found["coupled/model"], 1.0)
    assert ours.ids == alone.ids, "coupled draws what the target alone draws"
    assert [one["tokens"] for one in ours.stats] == [9, 9]
    assert generated(found["generate"], 1.0).ids == generated(found["generate"], 1.0).ids


def test_assisted_generation_has_a_draft_of_its_own(pair: Pair) -> None:
    assisted = named(pair, peers="assisted")["assisted"]
    weights = pair.draft[0].get_output_embeddings().weight.clone()
    for temperature in (0.0, 1.0, 0.0, 1.0):
        (ids,) = generated(assisted, temperature, TEXTS[:1]).ids
        assert len(ids) == 9 or ids[-1] == pair.target[0].generation_config.eos_token_id
    assert torch.equal(pair.draft[0].get_output_embeddings().weight, weights)


def test_assisted_generation_with_vocabularies_of_one_size() -> None:
    target = lively(), TOKENIZER
    pair = Pair(lambda: target, lambda: (lively(seed=1), TOKENIZER))
    found = named(pair, peers="assisted")
    expected = generated(found["generate"], texts=TEXTS[:1])
    assert generated(found["assisted"], texts=TEXTS[:1]).ids == expected.ids


def test_a_drafter_of_another_name(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class GuessDrafter(toys.RandomDrafter):
        def __init__(self) -> None:
            super().__init__(tokentiming.Vocabulary.from_tokenizer(TOKENIZER))

    monkeypatch.setattr(tokentiming, "GuessDrafter", GuessDrafter, raising=False)
    monkeypatch.setattr(tokentiming, "__all__", [*tokentiming.__all__, "GuessDrafter"])
    found = named(pair, drafters="guess,none")
    assert generated(found["greedy/guess"]).ids == generated(found["alone"]).ids
    assert not uses_draft(drafters=["guess"], peers=["prompt-lookup"])
    assert uses_draft(drafters=["guess+model"], peers=[])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"methods": "magic"}, "method is 'magic'; choose one of"),
        ({"methods": ""}, "method is ''; choose one of"),
        ({"drafters": "model,ghost"}, "^systems: no drafter is called 'ghost'; choose .*model"),
        ({"peers": "rival"}, "^systems: peers holds rival; choose among assisted"),
    ],
)
def test_unknown_names(pair: Pair, names: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(pair, **names)


@pytest.mark.draft_fails
def test_a_draft_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("broken")

    pair = Pair(lambda: (lively(), TOKENIZER), draft)
    monkeypatch.setattr(tokentiming.ModelDrafter, "propose", fail)
    with pytest.raises(RuntimeError, match=r"^greedy/model: the draft failed: .*broken"):
        generated(named(pair)["greedy/model"], texts=TEXTS[:1])


# --- the command


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    for name, (model, tokenizer) in {"t": (lively(), TOKENIZER), "d": draft()}.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return str(root / "t"), str(root / "d")


Command = Callable[..., Result]


@pytest.fixture
def command(folders: tuple[str, str], tmp_path: Path) -> Command:
    lines = [{"name": name, "prompt": f"{name} the"} for name in ("one", "two")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--target", folders[0], "--draft", folders[1], "--dtype", "float32"]
    options += ["--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "runs.jsonl")]

    def run(*more: str) -> Result:
        arguments = ["bench", *options, "--length", "5", *more]
        return CliRunner(env={"COLUMNS": "100"}).invoke(cli.app, arguments)

    return run


def test_the_command_runs_continues_and_reports(command: Command, tmp_path: Path) -> None:
    found = command()
    assert found.exit_code == 0, found.output
    assert "greedy/model" in found.stdout
    assert "coupled/model" in found.stdout
    assert "prompt-lookup: lowest category all" in found.stdout
    path = tmp_path / "runs.jsonl"
    data = path.read_bytes()
    assert data.count(b"\n") == 1 + 2 * 5 + 2 * 5
    again = command()
    assert again.stdout == found.stdout
    assert path.read_bytes() == data, "nothing is run twice"
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(cli.app, ["bench", "report", str(path)])
    assert shown.stdout == found.stdout
    over = CliRunner().invoke(cli.app, ["bench", "report", str(path), "--over", "assisted"])
    assert "speed over assisted" in over.stdout


def test_the_command_draws_plots(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ["--peers", "none", "--temperatures", "0", "--batch-size", "2"]
    found = command(*options, "--plots", str(tmp_path / "plots"))
    assert found.exit_code == 0, found.output
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["runs-ratios.png", "runs-stages.png"], "the toy target accepts no token"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperatures", "0,hot"], "bench: --temperatures is '0,hot'; give numbers"),
        (["--temperatures", "-1"], "sampling_at: temperature is -1.0; give"),
        (["--batch-size", "2"], "Plan: batch_size is 2, but assisted, prompt-lookup of"),
        (["--only", "three"], "read: '"),
        (["--drafters", "ghost"], "systems: no drafter is called 'ghost'; choose"),
        (["--device", "abacus"], "bench: --device is 'abacus' (Expected one of"),
        (["--length", "0"], "bench: Invalid value for '--length'"),
    ],
)
def test_errors_are_one_line(
    command: Command, tmp_path: Path, options: list[str], message: str
) -> None:
    found = command(*options)
    assert found.exit_code == 2, found.output
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"tokentiming: {message}")
    assert not (tmp_path / "runs.jsonl").exists(), "the arguments are checked first"


def test_other_arguments_are_refused_for_the_same_file(command: Command) -> None:
    options = ["--peers", "none", "--temperatures", "0"]
    assert command(*options).exit_code == 0
    found = command(*options, "--repeats", "2")
    assert found.exit_code == 2
    assert "another repeats (1, not 2); give another file" in found.stderr


def test_a_report_of_no_file(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli.app, ["bench", "report", str(tmp_path / "none.jsonl")])
    assert found.exit_code == 2
    assert "none.jsonl' cannot be used: No such file" in found.stderr
