"""Work with a key and a record: planned in blocks, done by workers, watched while it is done."""
