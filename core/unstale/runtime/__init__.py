"""Clock, cancellation, TLS and failpoints; all other packages may use them."""
