"""Who is calling, where it is a classic client: one module for each way to authenticate (RFC 6749 §2.3)."""
