"""From records to tables. Reads files only: no model, no configuration."""
