"""Gives a client a new secret where the client reads it, in steps that any crash may come between."""
