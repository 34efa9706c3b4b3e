"""Agent tools: each tool of the companion, and adapters for LiveKit and MCP."""
