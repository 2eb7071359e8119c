"""What clients and server compute: the update that is shared, local training, how data are split. No attack."""
