"""From record files to tables; of the code it knows only the methods' default options."""
