"""A package, so that the fixtures of scope `package` in its conftest.py end with its last test."""
