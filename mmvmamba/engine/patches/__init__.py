"""All replacements of functions in other libraries, and subclasses that override their private methods.

tests/test_upstream_names.py fails if a name that they need no longer exists.
"""
