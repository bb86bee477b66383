"""What the terminal shows: alignments, generated text, models, and safe text for all of them."""
