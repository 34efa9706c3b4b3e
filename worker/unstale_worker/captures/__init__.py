"""Checks, while changes are followed, that captures still report every change that the rules need."""
