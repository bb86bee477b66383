from typing import NamedTuple

import torch

from tokentiming.ops.sample import log_noise


class Candidates(NamedTuple):
    ids: torch.Tensor
    shares: torch.Tensor


def candidates(logits, keys, *, seed, states, count, out=None):
    z = logits.double() - log_noise(keys, seed=seed, states=states)
    z = torch.where(logits == -torch.inf, -torch.inf, z)
    if not torch.isfinite(logits).any(1).all() or logits.isnan().any():
        raise ValueError("candidates: NaN")
    top = z.topk(min(count, z.shape[1]), 1)
    ids = torch.where(top.values.isfinite(), top.indices, -1)
    return Candidates(ids, (top.values - torch.logsumexp(z, 1, keepdim=True)).exp().float())
