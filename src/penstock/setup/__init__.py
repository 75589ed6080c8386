"""Before the first run: inspect files, preview what would be sent, plan, check the settings."""
