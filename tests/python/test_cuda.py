"""The operations on a GPU against the CPU, which other tests compare with references.

Comparisons of the kernels for every type and every invalid input are in tests/cuda, in C++; they
run by emulation without a GPU. The tests here cover devices, streams, strides and graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.support.tables import exact_map, map_of, table_of
from tokentiming import ops

pytestmark = pytest.mark.gpu

FLOATS = [torch.float16, torch.bfloat16, torch.float32]


def to_gpu(value: Any) -> Any:
    """The same with every tensor on the GPU, its strides kept."""
    if isinstance(value, Tensor):
        place = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
        return place.copy_(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_gpu, value))
    if isinstance(value, (ops.ByteTable, ops.VocabularyMap)):
        return value.to("cuda")
    return value


def flat(result: Any) -> list[Tensor]:
    return [t.cpu() for t in ((result,) if isinstance(result, Tensor) else result)]


def apart(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The same rows, randomly with memory between them."""
    gap = int(torch.randint(0, 9, (), generator=generator))
    wide = torch.zeros(*rows.shape[:-1], rows.shape[-1] + gap, dtype=rows.dtype)
    view = wide[..., : rows.shape[-1]]
    view.copy_(rows)
    return view


class Call(NamedTuple):
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def on_cpu(self) -> list[Tensor]:
        return flat(self.function(*self.arguments, **self.options))

    def to_gpu(self) -> Call:
        options = {name: to_gpu(value) for name, value in self.options.items()}
        return Call(self.function, tuple(map(to_gpu, self.arguments)), options)

    def run(self) -> Any:
        return self.function(*self.arguments, **self.options)


# ---- random calls ----


def integer(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def sample_call(generator: torch.Generator, rows: int | None = None) -> Call:
    rows = integer(generator, 0, 20) if rows is None else rows
    columns = integer(generator, 1, 40_000)
    dtype = [*FLOATS, torch.float64][integer(generator, 0, 4)]
    logits = 3 * torch.randn(rows, columns, generator=generator)
    keys = torch.randint(-(2**63), 2**63 - 1, (columns,), generator=generator)
    states = torch.randint(0, 1000, (rows, 3), generator=generator)
    arguments = (apart(logits.to(dtype), generator), keys[: max(1, columns - 3)])
    return Call(ops.sample, arguments, {"seed": integer(generator, 0, 2**40), "states": states})


def candidates_call(generator: torch.Generator, rows: int | None = None) -> Call:
    call = sample_call(generator, rows)
    options = call.options | {"count": integer(generator, 1, 17)}
    return Call(ops.candidates, call.arguments, options)


def verify_call(
    generator: torch.Generator, batch: int | None = None, drafted: int | None = None
) -> Call:
    """Chains with decisions far from their thresholds, so that rounding decides none."""
    batch = integer(generator, 0, 5) if batch is None else batch
    drafted = integer(generator, 0, 6) if drafted is None else drafted
    columns = integer(generator, 2, 20_000)
    ragged = bool(integer(generator, 0, 2))
    lengths = [integer(generator, 0, drafted + 1) if ragged else drafted for _ in range(batch)]
    tokens = sum(lengths)
    ids = torch.randint(0, columns, (tokens,), generator=generator)
    target = torch.randn(tokens + batch, columns, generator=generator)
    draft = torch.randn(tokens, columns, generator=generator)
    uniforms = torch.full((tokens + batch,), 0.5)
    t = 0
    for b, length in enumerate(lengths):
        for _ in range(length):
            accepted = integer(generator, 0, 4) > 0
            target[t + b, ids[t]] = 30.0 if accepted else -30.0
            t += 1
        # One token has nearly all of the remaining mass.
        for row in range(t - length + b, t + b + 1):
            best = integer(generator, 0, columns)
            if row == t + b or best != ids[row - b]:
                target[row, best] = 20.0
                draft[row - b :][:1, best] = -20.0
    options: dict[str, Any] = {"uniforms": uniforms, "temperature": 1.0}
    dtype = FLOATS[integer(generator, 0, 3)]
    probs = {"target_logits": apart(target.to(dtype), generator)}
    if integer(generator, 0, 2):
        probs["draft_logits"] = apart(draft.to(FLOATS[integer(generator, 0, 3)]), generator)
    else:
        probs["draft_probs"] = draft.softmax(-1)
    if ragged:
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        return Call(ops.verify, (ids,), options | probs | {"offsets": offsets})
    probs = {
        name: rows.contiguous().view(batch, -1, columns) if rows.numel() else
        rows.new_empty(batch, drafted + ("target" in name), columns)
        for name, rows in probs.items()
    }  # fmt: skip
    options["uniforms"] = uniforms.view(batch, drafted + 1)
    return Call(ops.verify, (ids.view(batch, drafted),), options | probs)


def table(generator: torch.Generator, size: int) -> ops.ByteTable:
    lengths = torch.randint(0, 12, (size,), generator=generator).tolist()
    return table_of(
        [bytes(torch.randint(97, 100, (n,), generator=generator).tolist()) for n in lengths]
    )


def align_call(generator: torch.Generator, batch: int | None = None) -> Call:
    batch = integer(generator, 0, 40) if batch is None else batch
    dtype = [torch.int32, torch.int64][integer(generator, 0, 2)]
    lengths = torch.randint(1, 30, (2, batch), generator=generator)
    starts = torch.cat([torch.zeros(2, 1, dtype=torch.int64), lengths.cumsum(1)], 1)
    ids = [torch.randint(0, 50, (int(n[-1]),), generator=generator).to(dtype) for n in starts]
    options = {
        "draft_ids": ids[0],
        "target_ids": ids[1],
        "draft_table": table(generator, 50),
        "target_table": table(generator, 50),
        "draft_offsets": starts[0].clone(),
        "target_offsets": starts[1].clone(),
        "band": integer(generator, 0, 12),
    }
    return Call(ops.align, (), options)


def transfer_call(generator: torch.Generator, tokens: int | None = None) -> Call:
    """One sequence in two vocabularies of single letters and their pairs."""
    tokens = integer(generator, 0, 10) if tokens is None else tokens
    pieces = [b"a", b"b", b"c", b"ab", b"bc", b"ca", b"abc"]
    words = table_of(pieces)
    spelled = [[0], [1], [2], [0, 1], [4], [2, 0], [3, 2]]
    draft = torch.randint(0, len(pieces), (tokens,), generator=generator)
    target = torch.tensor([i for d in draft.tolist() for i in spelled[d]], dtype=torch.int64)
    options: dict[str, Any] = {
        "draft_ids": draft,
        "target_ids": target,
        "draft_table": words,
        "target_table": words,
    }
    options["target_spans"] = ops.align(**options).target_spans
    options["vocabulary_map"] = map_of(spelled)
    options["columns"] = integer(generator, 7, 5000)
    rows = torch.randn(tokens, len(pieces), generator=generator).softmax(-1)
    rows = rows.to([torch.float32, torch.float64][integer(generator, 0, 2)])
    return Call(ops.transfer, (apart(rows, generator),), options)


def restrict_call(generator: torch.Generator, rows: int | None = None) -> Call:
    rows = integer(generator, 0, 9) if rows is None else rows
    draft, columns = integer(generator, 1, 3000), integer(generator, 1, 9000)
    exact = torch.randint(-1, columns, (draft,), generator=generator)
    exact[0] = 0
    probs = torch.randn(rows, draft, generator=generator).softmax(-1)
    return Call(ops.restrict, (apart(probs, generator), exact_map(exact)), {"columns": columns})


def of_logits(make: Callable[..., Call]) -> Callable[..., Call]:
    """The same call with logits of half precision in place of the draft's probabilities."""

    def make_of_logits(generator: torch.Generator, count: int | None = None) -> Call:
        function, (probs, *others), options = make(generator, count)
        logits = apart(probs.log().to(FLOATS[integer(generator, 0, 3)]), generator)
        arguments = (None, *others)
        given = {"draft_logits": logits, "temperature": 0.7}
        return Call(function, arguments, given | options)

    return make_of_logits


def walk_call(generator: torch.Generator, batch: int | None = None) -> Call:
    """Trees of up to 80 nodes; half of the nodes have the token picked at their parent."""
    batch = integer(generator, 0, 20) if batch is None else batch
    lengths = torch.randint(0, 81, (batch,), generator=generator).tolist()
    picked = torch.randint(0, 4, (sum(lengths) + batch,), generator=generator)
    tokens: list[int] = []
    parents: list[int] = []
    for b, length in enumerate(lengths):
        root = len(tokens) + b
        for i in range(length):
            parents.append(integer(generator, max(-1, i - 3), i))
            likely = integer(generator, 0, 2)
            tokens.append(
                int(picked[root + 1 + parents[-1]]) if likely else integer(generator, 0, 4)
            )
    options = {
        "tokens": torch.tensor(tokens, dtype=[torch.int32, torch.int64][batch % 2]),
        "parents": torch.tensor(parents, dtype=torch.int32),
        "offsets": torch.tensor([0, *lengths]).cumsum(0),
    }
    return Call(ops.walk, (picked,), options)


def mapped_verify_call(generator: torch.Generator, batch: int = 3, drafted: int = 3) -> Call:
    """As ``verify_call`` with a map, a pool of rows and a temperature for each chain."""
    call = verify_call(generator, batch, drafted)
    options = {name: value for name, value in call.options.items() if "draft" not in name}
    ids, target = call.arguments[0], options["target_logits"]
    columns = target.shape[-1]
    size = columns + integer(generator, 0, 500)
    first = torch.randint(columns, (size,), generator=generator).int()
    vocabulary_map = ops.VocabularyMap(first, first, torch.arange(size + 1), first)
    rows = integer(generator, 1, 6)
    options |= {
        "draft_probs": torch.rand(rows, size, generator=generator).softmax(-1),
        "draft_rows": torch.arange(ids.numel()).view(ids.shape) % rows,
        "draft_map": vocabulary_map,
        "temperatures": torch.arange(batch) % 2 * 0.8,
    }
    del options["temperature"]
    return Call(ops.verify, (ids,), options)


CALLS = {
    "mapped_verify": mapped_verify_call,
    "sample": sample_call,
    "candidates": candidates_call,
    "verify": verify_call,
    "align": align_call,
    "transfer": transfer_call,
    "restrict": restrict_call,
    "transfer_logits": of_logits(transfer_call),
    "restrict_logits": of_logits(restrict_call),
    "walk": walk_call,
}
EACH = pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Within this context, synchronizing with the device is an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


def same(found: list[Tensor], expected: list[Tensor], name: str) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        if name.endswith("verify") and one.ndim == 2 and one.shape != other.shape:
            padding = one[:, other.shape[1] :]  # as wide as a chain of all tokens
            assert bool((padding == -1).all())
            one = one[:, : other.shape[1]]
        if name == "restrict":
            torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
        elif name.endswith("logits") and one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        elif name == "candidates" and one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-4, atol=0)
        else:
            assert torch.equal(one, other)


# ---- equal results ----


@EACH
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_cpu(
    make: Callable[..., Call], seed: int, request: pytest.FixtureRequest
) -> None:
    call = make(torch.Generator().manual_seed(seed))
    found = call.to_gpu().run()
    for tensor in (found,) if isinstance(found, Tensor) else found:
        assert tensor.is_cuda
    same(flat(found), call.on_cpu(), request.node.callspec.id.split("-")[-1])


@EACH
def test_empty_inputs(make: Callable[..., Call], request: pytest.FixtureRequest) -> None:
    call = make(torch.Generator().manual_seed(0), 0)
    same(flat(call.to_gpu().run()), call.on_cpu(), request.node.callspec.id)


def test_chains_without_drafted_tokens(request: pytest.FixtureRequest) -> None:
    for seed in range(6):
        call = verify_call(torch.Generator().manual_seed(seed), 3, 0)
        same(flat(call.to_gpu().run()), call.on_cpu(), "verify")


@EACH
def test_a_captured_graph_is_replayed_on_other_values(make: Callable[..., Call]) -> None:
    call = make(torch.Generator().manual_seed(3), 4).to_gpu()
    first = flat(call.run())  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call.run()
    graph.replay()
    for one, other in zip(flat(captured), first, strict=True):
        assert torch.equal(one, other)
    rows = next(
        t for t in (*call.arguments, *call.options.values()) if isinstance(t, Tensor)
    )  # fmt: skip
    if rows.is_floating_point():
        rows.copy_(rows.flip(0))
    again = flat(call.run())
    graph.replay()
    for one, other in zip(flat(captured), again, strict=True):
        assert torch.equal(one, other)


@EACH
@pytest.mark.filterwarnings("default:Synchronization debug mode")  # a warning of torch
def test_calls_do_not_synchronize(make: Callable[..., Call], no_waiting: None) -> None:
    torch.cuda.set_sync_debug_mode("default")
    call = make(torch.Generator().manual_seed(4), 4).to_gpu()
    call.run()
    torch.cuda.set_sync_debug_mode("error")
    call.run()


def test_calls_run_on_the_current_stream() -> None:
    call = sample_call(torch.Generator().manual_seed(5), 8).to_gpu()
    expected = call.run().cpu()
    stream = torch.cuda.Stream()
    logits = call.arguments[0]
    late = torch.zeros_like(logits)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(logits)
        found = Call(call.function, (late, *call.arguments[1:]), call.options).run()
    stream.synchronize()
    assert torch.equal(found.cpu(), expected)


def test_out_is_filled() -> None:
    call = sample_call(torch.Generator().manual_seed(6), 5).to_gpu()
    out = torch.full((5,), -7, device="cuda")
    assert call.function(*call.arguments, **call.options, out=out) is out
    assert torch.equal(out, call.run())


@EACH
def test_under_torch_compile(make: Callable[..., Call]) -> None:
    torch._dynamo.reset()
    call = make(torch.Generator().manual_seed(7), 4).to_gpu()
    compiled = torch.compile(
        lambda *arguments: call.function(*arguments, **call.options), backend="aot_eager"
    )
    for one, other in zip(flat(compiled(*call.arguments)), flat(call.run()), strict=True):
        assert torch.equal(one, other)


# ---- errors ----


def test_tensors_on_two_devices_are_refused() -> None:
    logits, keys = torch.zeros(1, 4, device="cuda"), torch.arange(4)
    states = torch.zeros(1, 3, dtype=torch.int64, device="cuda")
    with pytest.raises(
        ValueError, match=r"^sample: keys is in CPU memory, logits is on cuda:0; all have to be"
    ):
        ops.sample(logits, keys, seed=0, states=states)


def test_tables_and_maps_on_another_device_are_refused() -> None:
    call = restrict_call(torch.Generator().manual_seed(8), 2)
    probs, vocabulary_map = call.arguments
    with pytest.raises(ValueError, match=r"^restrict: vocabulary_map is in CPU memory, draft_pro"):
        ops.restrict(probs.cuda(), vocabulary_map, **call.options)
    call = align_call(torch.Generator().manual_seed(8), 2).to_gpu()
    with pytest.raises(ValueError, match=r"^align: target_table is in CPU memory, draft_ids is on"):
        ops.align(**call.options | {"target_table": call.options["target_table"].to("cpu")})


def test_tables_and_maps_move_there_and_back() -> None:
    table, mapped = table_of([b"a", b"bc"]), map_of([[0, 1], [], [1]], exact=[-1, -1, 1])
    for moved, names in (
        (table, ("bytes", "offsets")),
        (mapped, ("exact", "first", "expansion_offsets", "expansion_ids")),
    ):
        there = moved.to("cuda")
        assert there.to("cuda") is there
        assert len(there) == len(moved)
        for name in names:
            assert getattr(there, name).is_cuda
            assert torch.equal(getattr(there.to("cpu"), name), getattr(moved, name))


def test_the_noise_is_that_of_the_cpu() -> None:
    keys, states = torch.arange(40) * 2**55, torch.tensor([[0, 5, 1], [3, 0, 0]])
    noise = ops.log_noise(keys.cuda(), seed=9, states=states.cuda())
    assert noise.device.type == "cuda"
    assert torch.equal(noise.cpu(), ops.log_noise(keys, seed=9, states=states))
    states[0, 1] = -1
    noise = ops.log_noise(keys.cuda(), seed=9, states=states.cuda())
    assert bool(noise[0].isnan().all())
    assert not bool(noise[1].isnan().any())


def test_an_invalid_row_does_not_raise() -> None:
    call = sample_call(torch.Generator().manual_seed(9), 3).to_gpu()
    call.arguments[0][1, 0] = torch.nan
    expected = call.run().cpu()
    assert expected[1] == -1
    assert bool((expected[[0, 2]] >= 0).all())
