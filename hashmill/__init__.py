"""Hashmill: the fixity worker service for LABDRIVE."""

__version__ = "0.1.0"
