"""The agents that report: read from Redis, compared with the rules in force, and summed up."""
