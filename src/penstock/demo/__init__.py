"""The demo, on one box and on a local cloud."""
