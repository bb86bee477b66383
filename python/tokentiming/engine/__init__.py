"""The decoding loop and what it keeps: rows, draft length, statistics."""
