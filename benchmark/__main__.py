"""``python -m benchmark`` is ``leakboard``."""

from benchmark.cli.main import main

main()
