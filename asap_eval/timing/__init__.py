"""What a clock and an allocator say: speed in turns with the unpruned model, phases, memory."""
