"""The demo: real servers, a worker, agents that check what they read, and a writer that changes it."""
