"""Clock, cancellation, TLS and failpoints: what the other folders need from Python and the machine."""
