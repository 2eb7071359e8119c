"""What a network is to an attack: its gradients for many victims at once, and its last layer, found by what it does."""
