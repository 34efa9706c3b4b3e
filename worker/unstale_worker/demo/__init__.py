"""The demo: real servers, a worker, companions that check what they read, and a writer that changes it."""
