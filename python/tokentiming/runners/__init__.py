"""How a model is run: through torch, as a CUDA graph, or natively on the CPU."""
