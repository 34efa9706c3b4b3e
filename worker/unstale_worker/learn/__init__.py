"""Finds missing rules: tables that loaders were seen to read and no rule watches for their keys."""
