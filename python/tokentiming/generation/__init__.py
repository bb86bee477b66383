"""The interface of transformers' ``generate``: its arguments, processors and results."""
