"""The strength from which on a defense stops leakage: the search for it, and its table and page."""
