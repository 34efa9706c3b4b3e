"""The wire protocol: key names, messages, stored values and leases. Pure: no I/O."""
