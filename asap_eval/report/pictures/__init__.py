"""Pictures made from records: PNG and SVG, readable in black and white."""
