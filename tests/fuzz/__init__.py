"""Damaged and malicious files for every reader: ``python -m tests.fuzz --help``; ``docs/security.md`` says what holds.

A module ``*_readers`` has a function ``cases()`` that yields ``Case``: a name, a writer of a damaged file and a reader.
"""
