"""Redis, which knows who is processing what."""
