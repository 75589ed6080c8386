"""Penstock in AWS Lambda."""
