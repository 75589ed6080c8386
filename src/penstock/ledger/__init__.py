"""Redis: who is processing what."""
