"""The demo: real servers, a worker, a writer, and companion agents that check every read."""
