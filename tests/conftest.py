"""Fixtures shared by all tests; its place puts `support` on the path."""
