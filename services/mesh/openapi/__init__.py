"""The OpenAPI document of the REST surface, made from the compiled descriptors.

`python -m services.mesh.openapi --descriptors SET --out FILE` writes it; `make protos` does so. Nothing in it is
written by hand but the words on what is common to all calls: a new RPC appears with its bindings, bounds and comments.
"""
