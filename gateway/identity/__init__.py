"""Who is calling: issuers and their presets, key sets, and the verification of what they signed."""
