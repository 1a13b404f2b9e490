"""Measures: pure functions of (network, data), and the callback that decides when."""
