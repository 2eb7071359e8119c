"""Commands of the terminal: one handler each; no computation."""
