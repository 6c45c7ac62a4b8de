"""Who may become what: the policy files, their compiled generation, and the decision over it."""
