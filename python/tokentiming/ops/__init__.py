"""The native core's operations on tensors.

Every function borrows its tensors without a copy, releases the GIL while it works, and gives the
same result on any number of threads. Inputs may be torch tensors or anything with ``__dlpack__``
(such as NumPy arrays) in CPU memory; results are torch tensors. If all tensors are on one GPU, the
call runs there, on torch's current stream; it does not synchronize, and results are on that GPU.
``has_cuda()`` says whether this build has the kernels. In a forked process torch and the core use
one thread; spawn processes for more.

Vocabularies are given as ``ByteTable`` and ``VocabularyMap``, which are checked at construction and
can be moved to a GPU. Arguments that could be mistaken for one another are keyword-only.

Errors are ``ArgumentTypeError`` or ``ArgumentValueError``, which are ``TypeError`` and
``ValueError`` too, and both ``ArgumentError``. The message begins with the function's name and
names the argument; nothing has been written when one is raised, except where a function says
otherwise. An output shares memory with no input and with no other output.
"""

# torch comes first: it loads an OpenMP runtime, which the core then shares. In the other order each
# would have a thread pool of its own.
import torch  # noqa: F401

from tokentiming.ops import forks  # noqa: F401
from tokentiming.ops.align import Alignment, align
from tokentiming.ops.candidates import Candidates, candidates
from tokentiming.ops.devices import has_cuda
from tokentiming.ops.errors import ArgumentError, ArgumentTypeError, ArgumentValueError
from tokentiming.ops.sample import log_noise, sample
from tokentiming.ops.suffix_automaton import SuffixAutomaton
from tokentiming.ops.tables import ByteTable, VocabularyMap
from tokentiming.ops.transfer import Transfer, restrict, transfer
from tokentiming.ops.verify import Verification, verify
from tokentiming.ops.walk import Walk, walk

__all__ = [
    "Alignment",
    "ArgumentError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "ByteTable",
    "Candidates",
    "SuffixAutomaton",
    "Transfer",
    "Verification",
    "VocabularyMap",
    "Walk",
    "align",
    "candidates",
    "has_cuda",
    "log_noise",
    "restrict",
    "sample",
    "transfer",
    "verify",
    "walk",
]
