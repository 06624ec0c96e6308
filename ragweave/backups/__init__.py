"""Backups of what the mesh keeps on this machine: their format, where they stand, how one is made and restored."""
