"""The commands: the only layer that prints, asks and exits."""
