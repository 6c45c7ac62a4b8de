"""Signed objects taken apart: strict JSON, compact JWS, key sets. For the server and for what APIs import; no I/O."""
