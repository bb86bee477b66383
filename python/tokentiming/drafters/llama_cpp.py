"""A model in a GGUF file as drafter, run by llama.cpp."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tokentiming.drafters.base import Choose, DraftRequest, Grow
from tokentiming.drafters.draft import Draft
from tokentiming.drafters.model import ModelDrafter, Reader
from tokentiming.runners.llama_cpp import LlamaCppRunner
from tokentiming.scalars import integer
from tokentiming.tokens.llama_cpp import LlamaCppModel, LlamaCppTokenizer


class LlamaCppDrafter(ModelDrafter):
    """Any decoder in a GGUF file, with the tokenizer and the chat template of the file.

    llama.cpp runs it from its quantized weights. Trees and several texts are sequences of one
    cache, which grows with the texts. A text longer than ``max_length`` is read without its oldest
    part.

    Args:
        path: of the GGUF file.
        max_length: maximum number of tokens of a text; by default, and at most, as many as the
            model was trained with.
        threads: number of threads; by default those of torch.
        gpu_layers: number of layers on a GPU, if llama-cpp-python was built for one.

    Raises:
        TypeError: ``path`` is not a string or a path, or a number is not an integer.
        ValueError: there is no such file, llama.cpp cannot load it, the model is not a decoder with
            attention layers only, or a number is too small.
        ImportError: the extra ``tokentiming[llama-cpp]`` is not installed.

    Example:
        >>> drafter = LlamaCppDrafter("SmolLM2-135M-Instruct.Q4_1.gguf")
        >>> decoder = SpeculativeDecoder(target_model, target_tokenizer, drafter)
    """

    runner: LlamaCppRunner

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        threads: int | None = None,
        gpu_layers: int = 0,
    ) -> None:
        caller = "LlamaCppDrafter"
        for name, number in {"max_length": max_length, "threads": threads}.items():
            if number is not None:
                integer(number, name, least=1, caller=caller)
        integer(gpu_layers, "gpu_layers", least=0, caller=caller)
        model = LlamaCppModel(path, gpu_layers=gpu_layers, caller=caller)
        self.runner = LlamaCppRunner(model, max_length=max_length, threads=threads, caller=caller)
        self.tokenizer = LlamaCppTokenizer(model)
        self.vocabulary = self.tokenizer.vocabulary()
        self.texts: list[Reader] = []

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        """Draft as described by ``ModelDrafter``; a node is grown if the cache has a free cell."""
        continued: set[tuple[int, int]] = set()  # nodes of texts that have a child in the cache

        def grow_within(drafts: Sequence[Draft]) -> list[list[int]]:
            nodes, branches = self.runner.remaining
            grown: list[list[int]] = []
            for index, (draft, chosen) in enumerate(zip(drafts, grow(drafts), strict=True)):
                grown.append([])
                for node in chosen:
                    edge = (index, draft.parents[node])
                    is_branch = edge in continued
                    if nodes and (branches or not is_branch):
                        nodes, branches = nodes - 1, branches - is_branch
                        continued.add(edge)
                        grown[-1].append(node)
            return grown

        super().propose(requests, choose, grow_within)
