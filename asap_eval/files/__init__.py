"""Files of this disk: put in place whole, read in place inside archives, known by their hashes."""
