"""What an API imports to verify access tokens of the gateway and to log which workload called."""
