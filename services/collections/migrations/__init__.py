"""The registry's schema, one step a file; applied on start."""
