"""Sheets as text: for a terminal, as Markdown, CSV or LaTeX."""
