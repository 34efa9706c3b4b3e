"""Write SQL migrations for the rules."""
