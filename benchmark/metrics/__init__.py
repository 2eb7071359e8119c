"""Numbers of victims: image quality, what counts as leaked, misfits; and their statistics."""
