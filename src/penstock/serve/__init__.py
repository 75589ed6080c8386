"""What Penstock answers over HTTP."""
