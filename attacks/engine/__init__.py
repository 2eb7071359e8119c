"""The parts of an attack that matches gradients: starts, label rule, objective, optimizers, and the loop. No attack."""
