"""WebDataset shards: which an address means, local copies, what they hold, all as a store."""
