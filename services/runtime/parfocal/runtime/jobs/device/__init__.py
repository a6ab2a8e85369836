"""The machine's devices: who has them, who waits for them, and in which order they are lent."""
