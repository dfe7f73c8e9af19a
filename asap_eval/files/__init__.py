"""Files of this disk: what they hold, as hashes, and folders in archives."""
