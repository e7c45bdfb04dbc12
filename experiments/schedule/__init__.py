"""Executes what the protocol says: in this process, or on a Ray cluster. The only package that imports Ray."""
