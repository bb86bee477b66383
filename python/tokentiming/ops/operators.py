"""Operations as torch operators, ``torch.ops.tokentiming.*``.

An operator replaces its function under torch.compile and for tensors that have a shape but no
memory. Any other call goes directly to the core, which is faster by ten microseconds. Its schema is
the signature of the function without ``out``. Operations that take a ``ByteTable`` or a
``VocabularyMap`` have none, and ``verify`` has none with a ``draft_map``: torch.compile breaks its
graph at them.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tokentiming.ops.errors import ArgumentTypeError, ArgumentValueError

INT64 = (torch.int64,)
FLOAT32 = (torch.float32,)
IDS = (torch.int32, torch.int64)
WIDE = (torch.float32, torch.float64)
FLOATS = (torch.float16, torch.bfloat16, *WIDE)

compiling = torch.compiler.is_dynamo_compiling

Shapes = dict[str, tuple[str, tuple[torch.dtype, ...]]]
_shapes: dict[str, Shapes] = {}
_RANGES = {"seed": (range(2**64), "[0, 2**64)"), "count": (range(1, 17), "[1, 16]")}


def traced(tensor: Any) -> bool:
    """True under torch.compile, and for tensors that have a shape but no memory."""
    if type(tensor) is Tensor:  # the common case, which has to be fast
        return tensor.is_meta or compiling()
    return without_memory(tensor)


def without_memory(tensor: Any) -> bool:
    """True for tensors that have a shape but no memory: meta and fake ones."""
    if type(tensor) is Tensor:
        return tensor.is_meta
    return isinstance(tensor, FakeTensor) or (isinstance(tensor, Tensor) and tensor.is_meta)


def refuse_out(function: str, argument: str, out: object) -> None:
    """Refuse ``out``: the registered operators return new tensors."""
    if out is not None:
        raise ArgumentValueError(
            f"{function}: out cannot be given under torch.compile or for {argument} without memory"
        )


def register(
    function: Callable[..., Any],
    returns: Any,
    new: Callable[..., Any],
    shapes: Shapes,
    *,
    without: Sequence[str] = (),
) -> None:
    """Register a function as the operator of the same name.

    Args:
        function: each argument except ``out`` and those of ``without`` is an argument of the
            operator.
        returns: the return type of the operator: Tensor, or a tuple of them.
        new: makes the empty results of the function, given the same arguments.
        shapes: the axes and dtypes of each argument that is a tensor.
        without: arguments that an operator cannot take, such as a ``VocabularyMap``.
    """
    name = function.__name__
    signature = inspect.signature(function, eval_str=True)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD  # custom_op takes tensors in no other way
    parameters = [
        p.replace(kind=positional)
        for p in signature.parameters.values()
        if p.name not in ("out", *without)
    ]
    operator_signature = signature.replace(parameters=parameters, return_annotation=returns)

    def named(arguments: Any, options: Any) -> dict[str, Any]:
        return operator_signature.bind(*arguments, **options).arguments

    def plain(result: Any) -> Any:
        return result if returns is Tensor else tuple(result)

    def run(*arguments: Any, **options: Any) -> Any:
        given = named(arguments, options)
        if "seed" in given:
            given["seed"] %= 2**64
        return plain(function(**given))

    run.__signature__ = operator_signature  # type: ignore[attr-defined]
    made = torch.library.custom_op(
        f"tokentiming::{name}", run, mutates_args=(), device_types=("cpu", "cuda")
    )
    made.register_fake(lambda *arguments, **options: plain(new(**named(arguments, options))))
    _shapes[name] = shapes


def record(function: str, out: object, **arguments: Any) -> Any:
    """The result of the operator for the arguments.

    Under torch.compile the operator checks the arguments when it runs.
    """
    refuse_out(function, next(iter(arguments)), out)
    if not compiling():
        _check(function, arguments)
    if "seed" in arguments:  # integers of a schema are signed
        seed = arguments["seed"]
        if not 0 <= seed < 2**64:
            raise ArgumentValueError(f"{function}: seed is {seed}; it must be in [0, 2**64)")
        arguments["seed"] = seed if seed < 2**63 else seed - 2**64
    run = getattr(torch.ops.tokentiming, function)
    try:
        return run(**arguments)
    except Exception:
        if not compiling():
            _require_alike(function, arguments, "fake", lambda value: isinstance(value, FakeTensor))
        raise


def _check(function: str, arguments: dict[str, Any]) -> None:
    schema = getattr(torch.ops.tokentiming, function).default._schema
    optional = {a.name for a in schema.arguments if isinstance(a.type, torch.OptionalType)}
    for name, value in arguments.items():
        if name in _shapes[function]:
            if value is not None or name not in optional:
                _check_tensor(function, name, *_shapes[function][name], value)
        elif name == "temperature":
            arguments[name] = number(function, name, value)
        else:
            arguments[name] = integer(function, name, value)
    _require_alike(function, arguments, "meta", lambda tensor: tensor.is_meta)


def _require_alike(
    function: str, arguments: dict[str, Any], kind: str, is_kind: Callable[[Tensor], bool]
) -> None:
    """Refuse a mixture of tensors of a kind and others."""
    named = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    of_kind = [name for name, value in named.items() if is_kind(value)]
    others = [name for name, value in named.items() if not is_kind(value)]
    if of_kind and others:
        raise ArgumentValueError(
            f"{function}: {of_kind[0]} is a {kind} tensor, {others[0]} is not;"
            " all have to be on one device"
        )


def _check_tensor(
    function: str, name: str, axes: str, dtypes: tuple[torch.dtype, ...], value: Any
) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(
            f"{function}: {name} must be a torch tensor beside tensors without memory,"
            f" got {type(value).__name__}"
        )
    dimensions = [1 + shape.count(",") for shape in re.split(r"\], | or ", axes)]
    if value.ndim not in dimensions:
        raise ArgumentValueError(
            f"{function}: {name} must have shape {axes}, got {value.ndim} dimensions"
        )
    if value.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ArgumentTypeError(f"{function}: {name} must be {expected}, got {value.dtype}")
    if axes.endswith(" + 1]") and value.ndim == 1 and len(value) == 0:
        raise ArgumentValueError(f"{function}: {name} must have {axes[1:-1]} entries, got none")


def integer(function: str, name: str, value: Any) -> int | torch.SymInt:
    """The value as the core would take it."""
    if isinstance(value, torch.SymInt):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        found = operator.index(value)
    except Exception as error:
        raise ArgumentTypeError(
            f"{function}: {name} must be an integer, got {type(value).__name__}"
        ) from error
    allowed, interval = _RANGES[name]
    if found not in allowed:
        shown = found if abs(found) < 2**64 else "beyond 64 bits"
        raise ArgumentValueError(f"{function}: {name} is {shown}; it must be in {interval}")
    return found


def number(function: str, name: str, value: Any) -> float | torch.SymFloat:
    """The value as the core would take it."""
    if isinstance(value, torch.SymFloat):
        return value
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        found = float(value)
    except OverflowError as error:
        raise ArgumentValueError(f"{function}: {name} is beyond the range of a float") from error
    except Exception as error:
        raise ArgumentTypeError(
            f"{function}: {name} must be a number, got {type(value).__name__}"
        ) from error
    if not 0 <= found < math.inf:
        raise ArgumentValueError(f"{function}: {name} is {found}; it must be 0 or more")
    return found
