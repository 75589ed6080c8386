"""A stand-in for what writes the files."""
