"""``python -m benchmark`` is ``leakboard``."""

from benchmark.cli import main

main()
