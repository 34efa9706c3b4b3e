"""Clock, cancellation, TLS and failpoints: what all other folders of the agent may use."""
