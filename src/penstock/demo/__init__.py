"""The demo, on one box."""
