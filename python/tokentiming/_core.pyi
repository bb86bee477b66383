"""The native core; see tokentiming.ops for what each function does."""

from torch import Tensor

class ArgumentError(Exception): ...
class ArgumentValueError(ArgumentError, ValueError): ...
class ArgumentTypeError(ArgumentError, TypeError): ...

def align(
    draft_ids: Tensor,
    draft_offsets: Tensor | None,
    target_ids: Tensor,
    target_offsets: Tensor | None,
    draft_table_bytes: Tensor,
    draft_table_offsets: Tensor,
    target_table_bytes: Tensor,
    target_table_offsets: Tensor,
    band: int,
    target_spans: Tensor,
    cost: Tensor,
    /,
) -> None: ...
def log_noise(keys: Tensor, seed: int, states: Tensor, out: Tensor, /) -> None: ...
def sample(logits: Tensor, keys: Tensor, seed: int, states: Tensor, out: Tensor, /) -> None: ...
def verify(
    draft_ids: Tensor,
    offsets: Tensor | None,
    target_logits: Tensor | None,
    target_probs: Tensor | None,
    draft_logits: Tensor | None,
    draft_probs: Tensor | None,
    temperature: float,
    uniforms: Tensor | None,
    tokens: Tensor,
    accepted: Tensor,
    /,
) -> None: ...
def transfer(
    draft_probs: Tensor,
    draft_ids: Tensor,
    draft_offsets: Tensor | None,
    target_ids: Tensor,
    target_offsets: Tensor | None,
    target_spans: Tensor,
    draft_table_bytes: Tensor,
    draft_table_offsets: Tensor,
    target_table_bytes: Tensor,
    target_table_offsets: Tensor,
    first: Tensor,
    expansion_offsets: Tensor,
    expansion_ids: Tensor,
    origin_offsets: Tensor | None,
    origin_ids: Tensor | None,
    columns: int | None,
    probs: Tensor,
    cases: Tensor,
    /,
) -> None: ...
def restrict(
    draft_probs: Tensor,
    exact: Tensor,
    columns: int,
    origin_offsets: Tensor | None,
    origin_ids: Tensor | None,
    out: Tensor,
    /,
) -> None: ...
def verify_shape(draft_ids: Tensor, offsets: Tensor | None, /) -> tuple[int, int]: ...
def columns(columns: int, function: str, /) -> int: ...
def length(tensor: Tensor, function: str, argument: str, axes: str, /) -> int: ...
def dtype(tensor: Tensor, function: str, argument: str, /) -> str: ...
def has_cuda() -> bool: ...
