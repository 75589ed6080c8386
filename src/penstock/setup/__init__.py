"""Before the first run: look at files, show what would be sent."""
