"""How a model is run: through torch, as a CUDA graph, or by the native core."""
