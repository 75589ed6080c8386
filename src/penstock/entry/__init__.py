"""The doors: parse, build, call, answer; no policy."""
