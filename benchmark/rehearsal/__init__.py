"""What is tried before any work, on public images: networks, defenses and attacks keep their contracts."""
