"""The native core's operations on tensors.

Every function borrows its tensors without a copy, releases the GIL while it works, and gives the
same result on any number of threads. Inputs may be torch tensors or anything with ``__dlpack__``
(NumPy arrays, say) in CPU memory; results are torch tensors. Tensors on a GPU, which then all have
to be there, go to its kernels on torch's current stream, without a wait for them; results lie
beside them. ``has_cuda()`` tells whether this build has the kernels. In a forked process torch and
the core work in one thread; spawn processes for more.

Errors are ``ArgumentTypeError`` or ``ArgumentValueError``, which are ``TypeError`` and
``ValueError`` too, and both ``ArgumentError``, whatever kind of thing an argument is. The message
begins with the function's name and names the argument; nothing has been written when one is raised.
An output shares memory with no input and with no other output.
"""

# torch comes first: it loads an OpenMP runtime, and the core then joins it. In the other order each
# would bring a pool of threads of its own.
import torch  # noqa: F401

from tokentiming.ops import compiled, forks  # noqa: F401
from tokentiming.ops.align import Alignment, ByteTable, align
from tokentiming.ops.devices import has_cuda
from tokentiming.ops.errors import ArgumentError, ArgumentTypeError, ArgumentValueError
from tokentiming.ops.origins import Origins
from tokentiming.ops.sample import log_noise, sample
from tokentiming.ops.transfer import Expansions, Transfer, restrict, transfer
from tokentiming.ops.verify import Verification, verify

__all__ = [
    "Alignment",
    "ArgumentError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "ByteTable",
    "Expansions",
    "Origins",
    "Transfer",
    "Verification",
    "align",
    "has_cuda",
    "log_noise",
    "restrict",
    "sample",
    "transfer",
    "verify",
]
