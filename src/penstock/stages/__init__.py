"""The stages, in the order of the path: one import away from loader.py, none from another."""
