"""Connection pools and agent tools for AI companions, built on the cache."""
