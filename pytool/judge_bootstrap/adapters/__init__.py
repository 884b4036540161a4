"""One module for each outside world that the CLI talks to."""
