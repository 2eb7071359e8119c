"""A page for each paper that was run again: the paper's figures beside ours, from the records alone."""
