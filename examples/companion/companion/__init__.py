"""An AI companion that knows its users through a cache which is kept true; README.md says how to run it."""
