"""The mesh on one machine: what runs, where it keeps things, and who restarts it."""
