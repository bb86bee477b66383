"""``python -m tokentiming.cli``."""

from tokentiming.cli import main

main()
