"""Real servers that Penstock starts for itself."""
