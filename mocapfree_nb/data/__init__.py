"""Readers of folders and motion files."""
