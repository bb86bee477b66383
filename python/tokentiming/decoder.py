"""The user's interface: two models, two tokenizers, one ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming import loading
from tokentiming.drafters import Drafter, ModelDrafter
from tokentiming.engine.adaptive import AdaptiveBudget
from tokentiming.engine.budget import Budget
from tokentiming.engine.checked_budget import fixed_budget
from tokentiming.engine.costs import Costs
from tokentiming.engine.in_use import exclusive
from tokentiming.engine.loop import Decoding
from tokentiming.engine.request import Round
from tokentiming.engine.stats import Stats
from tokentiming.engine.streaming import announce, ended_on_error
from tokentiming.engine.text import Text
from tokentiming.generation import arguments
from tokentiming.generation.batch import Batch, prepare
from tokentiming.generation.batch_size import batch_size_for
from tokentiming.generation.lengths import length
from tokentiming.generation.of_prompt import of_prompt, stop_strings_of
from tokentiming.generation.output import SpeculativeOutput, partial_on_error
from tokentiming.generation.requests import requests_of
from tokentiming.methods import Greedy, Method, resolve
from tokentiming.runners import ModelRunner, checks, exact_runner_for
from tokentiming.runners.probe import require_same_logits
from tokentiming.tokens.prompts import is_batch, parse
from tokentiming.tokens.vocabulary import Vocabulary

_CANDIDATES = 4
"""Maximum number of children of a drafted node."""


class SpeculativeDecoder:
    """Generates the target model's output faster, by verifying a drafter's proposals.

    The models are borrowed and not changed. A decoder serves one call at a time. Calls in several
    threads need a decoder each; the decoders may share the models.

    A decoder is also a callable for ``target_model.generate(custom_generate=decoder)``, which then
    takes its usual arguments, batches included, and ``seed=``. ``generate`` does not pass a
    streamer on; use ``custom_generate=functools.partial(decoder, streamer=streamer)`` or
    ``decoder.generate(streamer=streamer)``. It does not pass on the tokenizer for stop strings of a
    generation config either; pass ``stop_strings`` as an argument.

    Args:
        target_model: a causal language model of transformers, in eval mode.
        target_tokenizer: its tokenizer.
        drafter: source of proposals, such as ``ModelDrafter(model, tokenizer)``, or a list of
            several, which draft in this order for one tree; None for none.
        method: a key of ``tokentiming.methods.METHODS``, or a method object.
        draft_length: tokens to draft in every round, as a chain. By default the decoder proposes
            trees, whose size adapts to measured costs.
        budget: decides the shape of proposals, such as ``FixedBudget(depth=6, nodes=16, width=4,
            candidates=4)``, or a ``Budget`` of your own; in place of ``draft_length``.
        runner: runs the target model; by default ``runners.exact_runner_for(target_model)``, which
            runs bfloat16 models of Llama's architecture, and the linear layers of others, with
            ``tokentiming._native`` on processors where that is faster.
            ``runners.TorchRunner(target_model)`` runs the model's own code.

    Raises:
        TypeError: the target is not a causal language model of transformers, ``drafter`` is not a
            drafter, or ``runner`` is not a runner.
        ValueError: an unknown method, a budget for trees with a method that proposes chains, a
            recurrent target, a model whose logits change when it reads a text in pieces, a model in
            training mode, a runner with other logits, or a tokenizer of an unknown kind.

    Example:
        >>> drafter = ModelDrafter(draft_model, draft_tokenizer)
        >>> decoder = SpeculativeDecoder(target_model, target_tokenizer, drafter)
        >>> decoder.generate("The capital of France is", max_new_tokens=8).text
        ' Paris. It is the largest city in'
        >>> inputs = target_tokenizer("The capital of France is", return_tensors="pt")
        >>> ids = target_model.generate(**inputs, custom_generate=decoder, max_new_tokens=8)
    """

    def __init__(
        self,
        target_model: PreTrainedModel,
        target_tokenizer: Any,
        drafter: Drafter | list[Drafter] | None = None,
        *,
        method: str | Method = "coupled",
        draft_length: int | None = None,
        budget: Budget | None = None,
        runner: ModelRunner | None = None,
    ) -> None:
        self.method = resolve(method)
        checks.target(target_model)
        checks.rolls_back(target_model, "SpeculativeDecoder")
        checks.drafters(drafter)
        checks.runner(runner, "SpeculativeDecoder")
        self.target_model = target_model
        self.target_tokenizer = target_tokenizer
        self.drafter = drafter
        self._budget = fixed_budget(self.method, budget=budget, draft_length=draft_length)
        if len(self._drafters) > 1 and not self.method.branches:
            raise ValueError(
                f"SpeculativeDecoder: method {self.method.name} takes one drafter and got "
                f"{len(self._drafters)}; give one, or the method coupled or slem"
            )
        weights = sum(map(torch.numel, target_model.parameters()))
        self._costs = Costs([getattr(one, "weights", 0) / weights for one in self._drafters])
        self._adaptive: dict[Any, AdaptiveBudget] = {}  # greedy texts and others differ
        self.vocabulary = Vocabulary.from_tokenizer(
            target_tokenizer,
            eos_token_ids=target_model.generation_config.eos_token_id,
            rows=target_model.get_input_embeddings().weight.shape[0],
        )
        self.runner = exact_runner_for(target_model) if runner is None else runner
        require_same_logits(target_model, self.runner, "SpeculativeDecoder")
        if budget is not None and budget.candidates > 1 and not self._supports_forests:
            raise ValueError(
                f"SpeculativeDecoder: the budget has {budget.candidates} candidates, but the "
                "target or the draft reads chains only; give candidates=1, or load both "
                'models with attn_implementation="sdpa"'
            )

    @classmethod
    def from_pretrained(
        cls,
        target: str | PathLike[str],
        draft: str | PathLike[str] | None = None,
        *,
        method: str | Method = "coupled",
        draft_length: int | None = None,
        target_revision: str | None = None,
        draft_revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str = "cpu",
    ) -> SpeculativeDecoder:
        """Load both models and their tokenizers.

        Args:
            target: a hub id, a folder, or a ``.gguf`` file.
            draft: the same for the draft; None for no drafter.
            method: as in the constructor.
            draft_length: as in the constructor.
            target_revision: branch, tag or commit of the target's hub id.
            draft_revision: the same for the draft.
            dtype: of both models' weights.
            device: where both models go.

        Raises:
            TypeError: a place is not a string or a path.
            ValueError: a model cannot be loaded, or as in the constructor.
            ImportError: a ``.gguf`` file is given and the extra ``tokentiming[gguf]`` is missing.
        """
        method = resolve(method)
        loading.locate(target, caller="from_pretrained", argument="target")
        if draft is not None:  # both are located before anything is loaded
            loading.locate(draft, caller="from_pretrained", argument="draft")
        loaded = [
            loading.load(place, revision=revision, dtype=dtype, device=device)
            for place, revision in ((target, target_revision), (draft, draft_revision))
            if place is not None
        ]
        drafter = ModelDrafter(*loaded[1]) if draft is not None else None
        return cls(*loaded[0], drafter, method=method, draft_length=draft_length)

    def generate(
        self,
        prompt: Any = None,
        *,
        max_new_tokens: int | None = None,
        seed: int | list[int] | None = None,
        batch_size: int | None = None,
        streamer: Any = None,
        stop_strings: str | list[str] | None = None,
        watch: Callable[[Round], None] | None = None,
        **generate_kwargs: Any,
    ) -> SpeculativeOutput:
        """Generate as ``target_model.generate`` would.

        Args:
            prompt: text, chat messages, ids (a list, a tensor or an array), what a tokenizer
                returned, or a list of prompts.
            max_new_tokens: maximum number of tokens to generate for each prompt; 128 unless
                ``max_length`` or a generation config, such as the model's own, sets a limit.
            seed: of the random stream, 0 to 2**63 - 1; by default drawn from torch's global
                generator. The texts of a call are independent. With a list of seeds, one for each
                prompt, the text of a prompt does not depend on the other prompts. A seed gives the
                same text for the same logits: in bf16, passes over another number of rows round
                differently, and the text may differ. Methods other than ``coupled`` and ``slem``
                also need the same drafter and a ``draft_length`` or fixed ``budget``.
            batch_size: maximum number of texts to run at once; when a text ends, the next one
                starts. By default as many as fit into half of the free memory, at most 16. Under
                ``coupled`` and ``slem``, or a fixed budget, the texts do not depend on it.
            streamer: a transformers streamer; takes a single text.
            stop_strings: strings at whose first occurrence generation ends.
            watch: called with a ``Round`` after each one.
            **generate_kwargs: anything else that ``target_model.generate`` takes for greedy
                decoding or sampling: ``do_sample``, ``temperature``, ``top_k``, ``top_p``,
                ``min_p``, ``repetition_penalty``, ``logits_processor``, ``eos_token_id`` ...
                Sampling arguments may be lists, a value for each prompt. Processors and criteria
                see one row at a time; ``max_time`` applies to the whole call.

        Raises:
            TypeError: the prompt, or another argument, is of the wrong type.
            ValueError: something is empty, out of range, or not supported. It is raised before any
                model runs.
            RuntimeError: the decoder, drafter, method or streamer is in use by another call.

        An error or interruption during generation has an attribute ``partial``, a
        ``SpeculativeOutput`` of lists with what was generated of each text, in the order of the
        prompts. A text without an end has ``finish_reason`` None in its ``Stats``. The decoder can
        be used again.
        """
        with ended_on_error(streamer):
            arguments.refuse_generate_arguments(generate_kwargs)
            checks.prompt_device(prompt, self.target_model)
            prompts = parse(prompt, self.target_tokenizer)
            arguments.refuse_streamer(streamer, len(prompts))
            arguments.refuse_callbacks(streamer, watch, stop_strings)
            given = {**generate_kwargs, "max_new_tokens": max_new_tokens}
            generate_kwargs |= length(given, prompts, self.target_model)
            asked = stop_strings_of(generate_kwargs, self.target_model)
            batches = [
                prepare(
                    self.target_model, single, of_prompt(generate_kwargs, i, len(prompts))
                ).stopping_at(
                    asked if stop_strings is None else stop_strings, self.target_tokenizer
                )
                for i, single in enumerate(prompts)
            ]
            return self._decode(
                batches,
                seed=seed,
                batch_size=batch_size,
                streamer=streamer,
                watch=watch,
                listed=is_batch(prompt),
            )

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        *,
        seed: int | list[int] | None = None,
        batch_size: int | None = None,
        stop_strings: str | list[str] | None = None,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Generate for ``target_model.generate(custom_generate=decoder)``, which calls this.

        Args:
            model: the target model.
            input_ids: int64 ``[B, L]``, padding included.
            logits_processor: as ``generate`` prepared them for the batch.
            stopping_criteria: as ``generate`` prepared them for the batch.
            generation_config: as ``generate`` prepared it.
            seed: as in ``generate`` of this class.
            batch_size: as in ``generate`` of this class.
            stop_strings: as in ``generate`` of this class.
            streamer: as in ``generate`` of this class.
            **model_kwargs: the other inputs of the model.

        Returns:
            ``sequences``, or a ``SpeculativeOutput`` of lists if ``return_dict_in_generate`` is
            True.
        """
        with ended_on_error(streamer):
            if model is not self.target_model:
                raise ValueError(
                    f"generate: custom_generate is a decoder for another {type(model).__name__}; "
                    "call generate of its target_model, or make a decoder for this model"
                )
            arguments.refuse_dropped(model)
            arguments.refuse_callbacks(streamer, None, stop_strings)
            steps = logits_processor, stopping_criteria
            batch = Batch.of(input_ids, *steps, generation_config, model_kwargs)
            output = self._decode(
                [batch.stopping_at(stop_strings, self.target_tokenizer)],
                seed=seed,
                batch_size=batch_size,
                streamer=streamer,
            )
        return output if generation_config.return_dict_in_generate else output.sequences

    @torch.no_grad()
    def _decode(
        self,
        batches: Sequence[Batch],
        *,
        seed: int | list[int] | None,
        batch_size: int | None = None,
        streamer: Any = None,
        watch: Callable[[Round], None] | None = None,
        listed: bool = True,
    ) -> SpeculativeOutput:
        """Generate all rows of what transformers prepared.

        Args:
            batches: of one call.
            seed: as in ``generate``.
            batch_size: as in ``generate``.
            streamer: as in ``generate``.
            watch: as in ``generate``.
            listed: whether the output of a single row is a list too.
        """
        checks.evaluating(self.target_model)
        told = announce(streamer, watch)
        tokens = len(self.vocabulary)
        requests = requests_of(batches, self.target_model, tokens=tokens, seed=seed, watch=told)
        arguments.refuse_streamer(streamer, len(requests))
        runners = [self.runner, *(one.runner for one in self._drafters if hasattr(one, "runner"))]
        size = batch_size_for(
            requests, runners, asked=batch_size, supports_forests=self._supports_forests
        )
        name, exact = self.method.name, self.method.exact
        texts = [Text(one, self.vocabulary, Stats(name, exact=exact)) for one in requests]
        with (
            exclusive(decoder=self, drafter=self._drafters, streamer=streamer),
            partial_on_error(lambda: self._output(texts, batch=True)),
        ):
            if streamer is not None:
                streamer.put(torch.tensor([requests[0].prompt.padded], device="cpu"))
            # Greedy decoding is the same for all methods, so its texts run separately.
            for method in (self.method, Greedy()):
                greedy = isinstance(method, Greedy)
                asked = [text for text in texts if text.request.do_sample != greedy]
                if asked:
                    self._decoding(method, size).run(asked)
            if streamer is not None:
                streamer.end()
        return self._output(texts, batch=listed or len(texts) > 1)

    def _decoding(self, method: Method, batch_size: int) -> Decoding:
        budget = self._budget
        if budget is None:
            trees = method.branches and self._supports_forests
            kind = type(method), _CANDIDATES if trees else 1
            budget = self._adaptive.setdefault(
                kind, AdaptiveBudget(self._costs, candidates=kind[1])
            )
        return Decoding(
            self.runner,
            self.vocabulary,
            self._drafters,
            method,
            budget,
            target_tokenizer=self.target_tokenizer,
            batch_size=batch_size,
        )

    @property
    def _supports_forests(self) -> bool:
        """Whether both models read trees, and several texts at once."""
        return self.runner.supports_forests and all(
            getattr(drafter, "supports_forests", True) for drafter in self._drafters
        )

    @property
    def _drafters(self) -> list[Drafter]:
        given = self.drafter
        if isinstance(given, list):
            return given
        return [] if given is None else [given]

    def _output(self, texts: Sequence[Text], *, batch: bool) -> SpeculativeOutput:
        device = self.target_model.device
        return SpeculativeOutput.of(texts, self.target_tokenizer, device, batch=batch)
