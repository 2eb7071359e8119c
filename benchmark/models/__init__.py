"""Networks of the clients: one architecture, one file; own weights drawn from a seeded generator."""
