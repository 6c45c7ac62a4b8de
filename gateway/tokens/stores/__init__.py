"""Where signing keys are kept: one module per kind."""
