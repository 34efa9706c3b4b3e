"""The version of unstale: the one place where a release changes it."""

__version__ = "0.2.0"
