"""What was decided, written down before it takes effect."""
