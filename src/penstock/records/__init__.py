"""From a file's bytes to selected records: pure."""
