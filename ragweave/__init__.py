"""Ragweave: retrieval for other backends."""
