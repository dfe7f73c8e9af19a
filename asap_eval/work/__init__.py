"""The ledger of work: MACs, counted from the tokens that a run really had."""
