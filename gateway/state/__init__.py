"""What replicas share. Imports nothing of the gateway but its words."""
