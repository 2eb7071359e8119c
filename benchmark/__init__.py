"""The benchmark: what is attacked, how it is measured, and how that is kept and shown. Its commands are in ``cli``."""
