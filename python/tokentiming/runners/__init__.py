"""How a model is run: by torch, as a CUDA graph, or by ``tokentiming._native``."""

from __future__ import annotations

from transformers import PreTrainedModel

from tokentiming.runners.base import ModelRunner
from tokentiming.runners.cuda_graph import CudaGraphRunner
from tokentiming.runners.linear import native_linear
from tokentiming.runners.native import ExactNativeRunner, NativeRunner
from tokentiming.runners.torch import TorchRunner

__all__ = [
    "CudaGraphRunner",
    "ExactNativeRunner",
    "ModelRunner",
    "NativeRunner",
    "TorchRunner",
    "exact_runner_for",
    "runner_for",
]


def runner_for(model: PreTrainedModel) -> ModelRunner:
    """The fastest runner of a draft model on its device.

    Its logits may differ from the model's own by the rounding of ``NativeRunner``. This lowers the
    acceptance rate and does not change the emitted distribution.
    """
    if NativeRunner.runs(model):
        return NativeRunner(model)
    if CudaGraphRunner.runs(model):
        return CudaGraphRunner(model)
    return exact_runner_for(model)


def exact_runner_for(model: PreTrainedModel) -> ModelRunner:
    """The fastest runner of a target model whose logits are the model's own.

    ``tokentiming._native`` runs bfloat16 models of Llama's architecture on a CPU
    (``ExactNativeRunner``), and computes the linear layers of other models (``native_linear``),
    where that is faster. ``TorchRunner(model)`` computes all with torch.
    """
    if ExactNativeRunner.runs(model):
        return ExactNativeRunner(model)
    return TorchRunner(model, context=native_linear(model.get_input_embeddings().weight))
