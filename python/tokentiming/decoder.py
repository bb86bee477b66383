"""The user's way in: two models, two tokenizers, one ``generate``."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    StopStringCriteria,
)

from tokentiming import checks, models
from tokentiming.cache import CachedModel
from tokentiming.drafters import Drafter, ModelDrafter
from tokentiming.loop import Decoding, Request, Round
from tokentiming.methods import Method, resolve
from tokentiming.noise import Noise, draw_seed
from tokentiming.output import SpeculativeOutput, pad
from tokentiming.pace import AdaptivePace, Costs, FixedPace
from tokentiming.prompts import Prompt, parse
from tokentiming.stats import Stats
from tokentiming.vocabulary import Vocabulary

_DEFAULT_LENGTH = 128


class SpeculativeDecoder:
    """Generates what the target model would, with a drafter to hasten it.

    The models are borrowed: nothing of them is changed.

    Args:
        target_model: a causal language model of transformers, in eval mode.
        target_tokenizer: its tokenizer.
        drafter: source of proposals, such as ``ModelDrafter(model, tokenizer)``; None for none.
        method: a key of ``tokentiming.methods.METHODS``, or a method with settings of one's own.
        draft_length: tokens to draft in every round; by default this follows what pays.

    Raises:
        TypeError: the target is no causal language model of transformers.
        ValueError: unknown method, a recurrent target, a model in training mode, or a tokenizer of
            an unknown kind.
    """

    def __init__(
        self,
        target_model: PreTrainedModel,
        target_tokenizer: Any,
        drafter: Drafter | None = None,
        *,
        method: str | Method = "coupled",
        draft_length: int | None = None,
    ) -> None:
        self.method = resolve(method)
        checks.model(target_model)
        self.target_model = target_model
        self.target_tokenizer = target_tokenizer
        self.drafter = drafter
        self._fixed = None if draft_length is None else FixedPace(draft_length)
        self._costs = Costs()
        self._target = CachedModel(target_model)
        self.vocabulary = Vocabulary.from_tokenizer(
            target_tokenizer, eos_token_ids=target_model.generation_config.eos_token_id
        )

    @classmethod
    def from_pretrained(
        cls,
        target: str | PathLike[str],
        draft: str | PathLike[str] | None = None,
        *,
        method: str | Method = "coupled",
        draft_length: int | None = None,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str = "cpu",
    ) -> SpeculativeDecoder:
        """Load both models and their tokenizers.

        Args:
            target: a hub id, a folder, a ``.gguf`` file, or a name of ``tokentiming models list``.
            draft: the same for the draft; None for no drafter.
            method: as in the constructor.
            draft_length: as in the constructor.
            dtype: of both models' weights.
            device: where both models go.
        """
        method = resolve(method)
        places = [models.resolve(name) for name in (target, draft) if name is not None]
        loaded = [models.load(place, dtype, device) for place in places]
        drafter = ModelDrafter(*loaded[1]) if draft is not None else None
        return cls(*loaded[0], drafter, method=method, draft_length=draft_length)

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        streamer: Any = None,
        stop_strings: str | list[str] | None = None,
        watch: Callable[[Round], None] | None = None,
        **generate_kwargs: Any,
    ) -> SpeculativeOutput:
        """Generate as ``target_model.generate`` would.

        Args:
            prompt: text, chat messages, ids, or a list of them, which run one after another.
            max_new_tokens: most tokens to generate for each prompt; 128 unless a
                ``generation_config`` says otherwise.
            seed: of the one random stream, 0 to 2**63 - 1; by default drawn from torch's global
                generator.
            streamer: a transformers streamer; takes a single prompt.
            stop_strings: strings at whose first occurrence generation ends.
            watch: called with a ``Round`` after each one.
            **generate_kwargs: anything else that ``target_model.generate`` takes for greedy
                decoding or sampling: ``do_sample``, ``temperature``, ``top_k``, ``top_p``,
                ``min_p``, ``repetition_penalty``, ``logits_processor``, ``eos_token_id`` ...

        Raises:
            TypeError: the prompt is of an unknown kind.
            ValueError: something is empty, out of range, or cannot be honoured; nothing has run.
        """
        length = _new_tokens(max_new_tokens, generate_kwargs.get("generation_config"))
        prompts = self._checked_prompts(prompt, length, streamer, generate_kwargs)
        seed = draw_seed() if seed is None else checks.seed(seed)
        criteria = list(generate_kwargs.pop("stopping_criteria", None) or [])
        if stop_strings is not None:
            criteria.append(StopStringCriteria(self.target_tokenizer, stop_strings))
        results: list[tuple[list[int], Stats]] = []

        def run(single: Prompt, copies: int, processors: Any, stopping: Any, config: Any) -> None:
            for _ in range(copies):
                noise = Noise(seed, len(results))
                results.append(
                    self.decode(
                        single, processors, stopping, config,
                        room=length, noise=noise, streamer=streamer, watch=watch,
                    )
                )  # fmt: skip

        for single in prompts:
            self._prepared_by_transformers(
                single,
                run,
                max_new_tokens=length,
                stopping_criteria=StoppingCriteriaList(criteria),
                **generate_kwargs,
            )
        return self._output(results)

    def _checked_prompts(
        self, prompt: Any, length: int, streamer: Any, generate_kwargs: dict[str, Any]
    ) -> list[Prompt]:
        checks.generate_arguments(generate_kwargs)
        checks.prompt_device(prompt, self.target_model)
        prompts = parse(prompt, self.target_tokenizer)
        checks.single_for_streamer(streamer, len(prompts))
        for single in prompts:
            checks.lengths(single.ids, length, self.target_model)
        return prompts

    def _prepared_by_transformers(
        self, prompt: Prompt, run: Callable[..., None], **generate_kwargs: Any
    ) -> None:
        """Let ``target_model.generate`` make its processors and criteria, then call ``run``."""

        def custom(
            model: Any,
            input_ids: torch.Tensor,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **unused: Any,
        ) -> None:
            # as many rows as num_return_sequences asks for
            run(prompt, len(input_ids), logits_processor, stopping_criteria, generation_config)

        ids = torch.tensor([prompt.ids], device=self.target_model.device)
        self.target_model.generate(
            ids, attention_mask=torch.ones_like(ids), custom_generate=custom, **generate_kwargs
        )

    def decode(
        self,
        prompt: Prompt,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: Any,
        *,
        room: int,
        noise: Noise,
        streamer: Any = None,
        watch: Callable[[Round], None] | None = None,
    ) -> tuple[list[int], Stats]:
        """Generate one sequence of at most ``room`` new tokens with what transformers prepared.

        Returns:
            All ids, the prompt's too, and the statistics.
        """
        checks.generation_mode(config)
        checks.lengths(prompt.ids, room, self.target_model)
        warpers = LogitsProcessorList(p for p in processors if checks.is_warper(p))

        def commit(round_: Round) -> None:
            if streamer is not None:
                streamer.put(torch.tensor(round_.tokens))
            if watch is not None:
                watch(round_)

        place = checks.criteria_device(criteria, self.target_model)
        request = Request(
            prompt, processors, warpers, criteria, place, room, config.do_sample, noise, commit
        )
        pace = self._fixed or AdaptivePace(self._costs)
        decoding = Decoding(self._target, self.vocabulary, self.drafter, self.method, pace, request)
        if streamer is not None:
            streamer.put(torch.tensor([prompt.ids]))
        ids = decoding.run(self.target_tokenizer)
        if streamer is not None:
            streamer.end()
        return ids, decoding.stats

    def _output(self, results: list[tuple[list[int], Stats]]) -> SpeculativeOutput:
        texts = [
            self.target_tokenizer.decode(
                ids[len(ids) - stats.tokens :],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for ids, stats in results
        ]
        stats = [stats for _, stats in results]
        sequences = pad([ids for ids, _ in results], self.target_model)
        if len(results) == 1:
            return SpeculativeOutput(sequences=sequences, text=texts[0], stats=stats[0])
        return SpeculativeOutput(sequences=sequences, text=texts, stats=stats)


def _new_tokens(asked: int | None, config: Any) -> int:
    if asked is not None:
        return asked
    return getattr(config, "max_new_tokens", None) or _DEFAULT_LENGTH
