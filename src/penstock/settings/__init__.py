"""The settings: schema, reading, secrets and spool_place."""
