"""Drills of the judge's client: a stand-in server, a proxy that breaks answers, a real vLLM; for tests and figures."""
