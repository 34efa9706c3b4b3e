"""The command line: arguments in, calls out, no decisions."""
