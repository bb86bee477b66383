"""Typical mistakes in such methods, each as a patch of the real code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from tests.support import references, toys
from tests.support.enumeration import Verify, enumerated
from tests.support.pairs import PAIRS, Distribution, models
from tokentiming import methods, ops
from tokentiming.methods import Method, Pushforward, Slem, Tli
from tokentiming.noise import State
from tokentiming.tokens.tree import TEXT

verify = ops.verify  # the real function, which tests may replace


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> ops.Verification:
    """One token from a distribution ``[V]``, by the last uniform."""
    none = torch.empty((1, 0), dtype=torch.int64)
    return verify(none, target_probs=probs[None, None], uniforms=uniforms[None, -1:])


def with_last(result: ops.Verification, drawn: ops.Verification) -> ops.Verification:
    """The same verdict with another token after the accepted ones."""
    tokens = result.tokens.clone()
    tokens[0, int(result.accepted)] = drawn.tokens[0, 0]
    return ops.Verification(tokens, result.accepted)


def residual_from_p(ids, *, target_logits, uniforms, **others):
    result = verify(ids, target_logits=target_logits, uniforms=uniforms, **others)
    rejected = int(result.accepted)
    if rejected == len(ids):
        return result
    return with_last(result, draw(target_logits[rejected].exp(), uniforms))


def expansions_of(draft_map: ops.VocabularyMap) -> list[list[int]]:
    starts = draft_map.expansion_offsets.tolist()
    return [draft_map.expansion_ids[a:b].tolist() for a, b in pairwise(starts)]


def dense(ids, draft_probs, draft_rows, draft_map, columns: int) -> torch.Tensor | None:
    """The distribution of each token over the target's vocabulary."""
    if draft_rows is None:
        return draft_probs
    pool, rows = draft_probs.tolist(), draft_rows.tolist()
    every = expansions_of(draft_map)
    return draft_probs.new_tensor(references.mapped(pool, rows, ids.tolist(), every, columns))


def maximum_of_q(ids, *, target_logits, draft_probs, draft_rows=None, draft_map=None, **others):
    draft_probs = dense(ids, draft_probs, draft_rows, draft_map, target_logits.shape[-1])
    if draft_probs is not None:
        draft_probs = draft_probs.clone()
        for j, token in enumerate(ids.tolist()):
            draft_probs[j, token] = draft_probs[j].max()
    return verify(ids, target_logits=target_logits, draft_probs=draft_probs, **others)


def masked_to(shared: torch.Tensor) -> Verify:
    """The target restricted to the intersection, unless no mass would be left."""

    def masked(ids, *, target_logits, **others):
        left = target_logits.masked_fill(~shared, -torch.inf)
        some = left.isfinite().any(-1, keepdim=True)
        return verify(ids, target_logits=torch.where(some, left, target_logits), **others)

    return masked


def bonus_from_draft(
    ids, *, target_logits, draft_probs, uniforms, draft_rows=None, draft_map=None, **others
):
    draft_probs = dense(ids, draft_probs, draft_rows, draft_map, target_logits.shape[-1])
    others["target_logits"] = target_logits
    result = verify(ids, draft_probs=draft_probs, uniforms=uniforms, **others)
    if draft_probs is None or int(result.accepted) < len(ids):
        return result
    distribution = draft_probs[-1]
    return with_last(result, draw(distribution / distribution.sum(), uniforms))


def forgets_that_it_goes_on(
    ids, *, target_logits, draft_probs, draft_rows=None, draft_map=None, **others
):
    """Conditions only on the beginning of an expansion, so that expansions that end keep mass."""
    others["target_logits"] = target_logits
    if draft_rows is None:
        return verify(ids, draft_probs=draft_probs, **others)
    moved = dense(ids, draft_probs, draft_rows, draft_map, target_logits.shape[-1])
    rows, every = draft_rows.tolist(), expansions_of(draft_map)
    for j, row in enumerate(rows):
        taken = ids[rows.index(row) : j].tolist()
        if not taken:
            continue
        begun = [d for d, expansion in enumerate(every) if expansion[: len(taken)] == taken]
        on = [d for d in begun if len(every[d]) > len(taken)]
        moved[j] *= draft_probs[row, on].sum() / draft_probs[row, begun].sum()
    return verify(ids, draft_probs=moved, **others)


class StaleDrafter(toys.TableDrafter):
    """Reports for its first token the distribution that it had where the last round's draft
    ended.
    """

    stale: torch.Tensor | None = None

    def begin(self, *args) -> None:
        super().begin(*args)
        self.stale = None

    def propose(self, requests, choose, grow) -> None:
        super().propose(requests, choose, grow)
        (one,) = requests
        if not one.draft.limit:
            return
        last = one.draft.probs[-1]
        if self.stale is not None:
            one.draft.distributions[TEXT] = self.stale
        self.stale = last


class TimidDrafter(toys.TableDrafter):
    """Withholds a drawn token if its probability is small."""

    def propose(self, requests, choose, grow) -> None:
        super().propose(requests, choose, grow)
        (one,) = requests
        draft = one.draft
        for k, confidence in enumerate(draft.confidences):
            if confidence < 0.4:
                del draft.ids[k:], draft.parents[k:], draft.confidences[k:]
                return


@dataclass
class Mutation:
    """A run of the loop, and the mistake in it."""

    method: Callable[[], Method]
    verify: Verify = verify
    drafter: type = toys.TableDrafter
    patch: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    emitted_only: bool = False

    def distribution(self, *, mutated: bool) -> Distribution:
        """The distribution of the toy pair, with or without the mistake."""
        draft, target = PAIRS["crossing"]
        target_model, draft_model = models("crossing")
        kind = self.drafter if mutated else toys.TableDrafter
        with pytest.MonkeyPatch.context() as patch:
            if mutated:
                self.patch(patch)
            return enumerated(
                self.method(),
                target_model,
                target,
                kind(draft, draft_model),
                verify=self.verify if mutated else verify,
                emitted_only=self.emitted_only,
            )


def _shared() -> torch.Tensor:
    draft, target = PAIRS["crossing"]
    exact = methods.rejection.VocabularyMap.build(draft, target).exact
    return torch.isin(torch.arange(len(target)), exact)


MUTATIONS = {
    "residual taken from p": Mutation(Pushforward, residual_from_p),
    "maximum of q in place of q[x]": Mutation(Pushforward, maximum_of_q),
    "target masked to the intersection": Mutation(Tli, masked_to(_shared())),
    "noise used twice": Mutation(
        Slem,
        patch=lambda patch: patch.setattr(State, "after", lambda state, data: state),
        emitted_only=True,
    ),
    "stale draft row after a rejection": Mutation(Pushforward, drafter=StaleDrafter),
    "bonus token from the draft": Mutation(Pushforward, bonus_from_draft),
    "token dropped for its own confidence": Mutation(Tli, drafter=TimidDrafter),
    "going on left out inside an expansion": Mutation(Pushforward, forgets_that_it_goes_on),
}
