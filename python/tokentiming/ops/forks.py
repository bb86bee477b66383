"""Threads in a forked process."""

from __future__ import annotations

import os

import torch


def _use_one_thread() -> None:
    """Run torch and the core in the calling thread only.

    A forked process has none of the OpenMP threads that its parent has started, and a parallel
    region would wait for them forever.
    """
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
