"""Fuzzing of every reader: `python -m tests.fuzz NAME`, and a bounded run in the tests."""
