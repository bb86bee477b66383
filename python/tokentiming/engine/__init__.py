"""The decoding loop and what it keeps: texts, rows, budget, costs, statistics."""
