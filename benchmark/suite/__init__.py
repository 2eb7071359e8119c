"""What a user asks for: suites and arguments, read, checked, and made into objects by name."""
