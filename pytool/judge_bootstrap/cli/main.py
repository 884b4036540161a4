"""The entry point: global options, lazily loaded commands, and the one place that turns errors into exit codes."""
