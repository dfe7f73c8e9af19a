"""Tables of an experiment: its rows in order, measured beside published, with a verdict each."""
