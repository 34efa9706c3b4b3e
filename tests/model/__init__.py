"""The protocol as a transition system, explored whole at small bounds: see README.md."""
