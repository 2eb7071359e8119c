"""Records on disk: their form, checksums and folders. Nothing that computes one."""
