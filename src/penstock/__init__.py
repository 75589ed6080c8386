"""Penstock drains a spool directory of JSON files into Amazon SQS, each file once."""

__version__ = "0.1.0"
