"""Lint that knows the issuers: what in policy files is dangerous, useless or not what its author meant. Pure."""
