"""Penstock's own HTTP servers."""
