"""Measures: pure functions of a network and data, which know nothing of training."""
