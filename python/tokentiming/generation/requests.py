"""What the loop is asked for: a request for each row of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from tokentiming import scalars
from tokentiming.engine.request import Request, Round
from tokentiming.generation.batch import Batch
from tokentiming.generation.processors import (
    criteria_device,
    end_reason,
    have_state,
    warpers,
    without_padding,
)
from tokentiming.noise import Noise, draw_seed


def requests_of(
    batches: Sequence[Batch],
    target: PreTrainedModel,
    *,
    tokens: int,
    seed: int | list[int] | None,
    watch: Callable[[Round], None],
) -> list[Request]:
    """A request for each row of the batches.

    Args:
        batches: of one call.
        target: the target model.
        tokens: number of ids that may be drawn.
        seed: of all rows, or a list with one for each prompt; None draws one.
        watch: called with each round.

    Raises:
        ValueError: the target cannot read a prompt, or a processor cannot be copied.
    """
    for i, batch in enumerate(batches):
        _check(batch, target, place=i if len(batches) > 1 else None)
    size = sum(len(batch.rows) for batch in batches)
    prompts = sum(len(b.rows) // (b.config.num_return_sequences or 1) for b in batches)
    noises = _noises(seed, size, prompts=prompts)
    rows = [(batch, *row) for batch in batches for row in batch.split(alone=size == 1)]
    return [
        Request(
            prompt=prompt,
            processors=(
                without_padding(processors, tokens) if batch.config.do_sample else processors
            ),
            warpers=warpers(processors),
            end_reason=end_reason(criteria),
            criteria_device=criteria_device(criteria, target.device),
            remaining=batch.remaining,
            do_sample=bool(batch.config.do_sample),
            noise=noises[i],
            index=i,
            config=batch.config,
            watch=watch,
            emitted_only=have_state(processors),
        )
        for i, (batch, prompt, processors, criteria) in enumerate(rows)
    ]


def _check(batch: Batch, target: PreTrainedModel, *, place: int | None) -> None:
    """Check a batch; an error names the place of its prompt in a list."""
    try:
        batch.check(target)
    except ValueError as error:
        if place is None:
            raise
        raise ValueError(f"{error} (prompt {place} of the list)") from None


def _noises(seed: int | list[int] | None, rows: int, prompts: int) -> list[Noise]:
    """The random choices of each row.

    Rows with the same seed differ by their index. With a seed for each prompt, rows are numbered
    within each prompt.
    """
    if not isinstance(seed, list | tuple):
        number = draw_seed() if seed is None else scalars.seed(seed)
        return [Noise(number, row) for row in range(rows)]
    if len(seed) not in (prompts, rows):
        raise ValueError(
            f"generate: seed is a list of {len(seed)} for {prompts} prompts; give one for each"
        )
    each = rows // len(seed)
    seeds = [scalars.seed(number, f"seed[{i}]") for i, number in enumerate(seed)]
    return [Noise(number, row) for number in seeds for row in range(each)]
