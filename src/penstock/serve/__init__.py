"""Penstock's HTTP servers."""
