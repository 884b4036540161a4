"""The operator's side of judge-bootstrap: CLI, settings and adapters."""

__version__ = "0.1.0"
