"""The stages, in the order of the path; each is one import away from loader.py, none from another."""
