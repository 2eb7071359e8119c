"""What a record belongs to: checksums of the code, and of what own classes hold and do."""
