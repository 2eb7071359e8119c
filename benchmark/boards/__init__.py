"""Tables of records: which cells belong together, what is void, ranks, and what stands under them."""
