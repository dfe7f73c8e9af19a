"""Files of this disk: what they hold, as hashes, and how they are put in place."""
