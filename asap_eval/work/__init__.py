"""The ledger: work in MACs, counted from the tokens a run really had."""
