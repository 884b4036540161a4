"""Drills of the cluster: an API server that answers badly, many nodes, and what is there afterwards."""
