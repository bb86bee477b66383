"""Ways in which such methods go wrong, each as a switch to run the real code with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from tests.support import toys
from tests.support.enumeration import Verify, enumerated
from tests.support.pairs import PAIRS, Distribution, models
from tokentiming import Draft, methods, ops
from tokentiming.methods import Method, Pushforward, Slem, Tli
from tokentiming.noise import State

verify = ops.verify  # the real ones, whatever stands in for them during a test
transfer = ops.transfer


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> ops.Verification:
    """One token from a distribution ``[V]``, by the last uniform."""
    none = torch.empty((1, 0), dtype=torch.int64)
    return verify(none, target_probs=probs[None, None], uniforms=uniforms[:, -1:])


def with_last(result: ops.Verification, drawn: ops.Verification) -> ops.Verification:
    """The same verdict with another token after the accepted ones."""
    tokens = result.tokens.clone()
    tokens[0, int(result.accepted)] = drawn.tokens[0, 0]
    return ops.Verification(tokens, result.accepted)


def residual_from_p(ids, *, target_logits, draft_probs, uniforms):
    result = verify(ids, target_logits=target_logits, draft_probs=draft_probs, uniforms=uniforms)
    rejected = int(result.accepted)
    if rejected == ids.shape[1]:
        return result
    return with_last(result, draw(target_logits[0, rejected].exp(), uniforms))


def maximum_of_q(ids, *, target_logits, draft_probs, uniforms):
    if draft_probs is not None:
        draft_probs = draft_probs.clone()
        for j, token in enumerate(ids[0].tolist()):
            draft_probs[0, j, token] = draft_probs[0, j].max()
    return verify(ids, target_logits=target_logits, draft_probs=draft_probs, uniforms=uniforms)


def masked_to(shared: torch.Tensor) -> Verify:
    """The target restricted to the intersection, where that leaves it anything."""

    def masked(ids, *, target_logits, draft_probs, uniforms):
        left = target_logits.masked_fill(~shared, -torch.inf)
        some = left.isfinite().any(-1, keepdim=True)
        return verify(
            ids,
            target_logits=torch.where(some, left, target_logits),
            draft_probs=draft_probs,
            uniforms=uniforms,
        )

    return masked


def bonus_from_draft(ids, *, target_logits, draft_probs, uniforms):
    result = verify(ids, target_logits=target_logits, draft_probs=draft_probs, uniforms=uniforms)
    if draft_probs is None or int(result.accepted) < ids.shape[1]:
        return result
    distribution = draft_probs[0, -1]
    return with_last(result, draw(distribution / distribution.sum(), uniforms))


def forgets_that_it_goes_on(probs, *, target_ids, target_spans, vocabulary_map, **others):
    """Inside an expansion: conditions on its beginning alone, so that ending there keeps mass."""
    moved = transfer(
        probs,
        target_ids=target_ids,
        target_spans=target_spans,
        vocabulary_map=vocabulary_map,
        **others,
    )
    starts = vocabulary_map.expansion_offsets.tolist()
    every = [vocabulary_map.expansion_ids[a:b].tolist() for a, b in pairwise(starts)]
    lows = target_spans[:, 0].tolist()
    for j in (moved.cases == 3).nonzero()[:, 0].tolist():
        taken = target_ids[lows.index(lows[j]) : j].tolist()
        begun = [d for d, expansion in enumerate(every) if expansion[: len(taken)] == taken]
        on = [d for d in begun if len(every[d]) > len(taken)]
        moved.probs[j] *= probs[lows[j], on].sum() / probs[lows[j], begun].sum()
    return moved


class StaleDrafter(toys.TableDrafter):
    """Reports for its first token the distribution that it had where the last round's draft
    ended.
    """

    def begin(self, *args) -> None:
        super().begin(*args)
        self._stale: torch.Tensor | None = None

    def propose(self, *args) -> Draft:
        draft = super().propose(*args)
        last = draft.probs[-1]
        if self._stale is not None:
            draft.probs[0] = self._stale
        self._stale = last
        return draft


class TimidDrafter(toys.TableDrafter):
    """Drops a token that it is not sure of, and so proposes it only where it is."""

    def propose(self, *args) -> Draft:
        draft = super().propose(*args)
        for k, confidence in enumerate(draft.confidences):
            if confidence < 0.4:
                return Draft(draft.ids[:k], draft.confidences[:k], None, draft.probs[:k])
        return draft


@dataclass
class Mutation:
    """What to run, and what is wrong with it."""

    method: Callable[[], Method]
    verify: Verify = verify
    drafter: type = toys.TableDrafter
    patch: Callable[[pytest.MonkeyPatch], None] = lambda patch: None

    def distribution(self, *, mutated: bool) -> Distribution:
        """The distribution of the crossing pair, with the switch on or off."""
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
        Slem, patch=lambda patch: patch.setattr(State, "after", lambda state, data: state)
    ),
    "stale draft row after a rejection": Mutation(Pushforward, drafter=StaleDrafter),
    "bonus token from the draft": Mutation(Pushforward, bonus_from_draft),
    "token dropped for its own confidence": Mutation(Tli, drafter=TimidDrafter),
    "going on left out inside an expansion": Mutation(
        Pushforward, patch=lambda patch: patch.setattr(ops, "transfer", forgets_that_it_goes_on)
    ),
}
