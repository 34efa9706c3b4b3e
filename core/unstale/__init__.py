"""unstale."""
