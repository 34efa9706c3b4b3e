"""Reports of an agent about itself, which the worker and its commands read."""
