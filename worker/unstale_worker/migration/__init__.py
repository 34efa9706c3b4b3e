"""Writes the SQL migration for the rules."""
