"""What attacks in closed form share: a network as a chain of layers, the equations of each, and its first layer."""
