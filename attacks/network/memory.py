"""Whether a computation has failed for want of memory, which says nothing of the network it is of."""

REFUSALS = "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"
"""What torch says of it in errors that have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine has run out of memory."""
    of_torch = type(error).__name__ == "OutOfMemoryError"  # on a GPU
    return of_torch or isinstance(error, MemoryError) or any(text in str(error) for text in REFUSALS)
