"""Layouts: for each benchmark the columns of its table, and the overview of all of them."""
