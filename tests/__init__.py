"""Offline tests: small twins of every network, fixed seeds."""
