"""Workload Identity Gateway: trades the tokens of platforms for short-lived, scoped access tokens."""

__version__ = "0.1.0"
