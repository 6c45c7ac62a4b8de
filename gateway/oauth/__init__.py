"""The protocol's own vocabulary: parameters, errors, reasons, metadata. No I/O, nothing else of the gateway."""
