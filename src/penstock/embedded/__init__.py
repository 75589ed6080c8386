"""Real servers that Penstock runs for itself."""
