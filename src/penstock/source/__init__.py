"""The ways into the spool directory, and out of it."""
