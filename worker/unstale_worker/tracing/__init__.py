"""Answers for people: what a change removes, what removed a key, and announcing changes again."""
