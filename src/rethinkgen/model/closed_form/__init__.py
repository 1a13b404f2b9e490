"""Models that are solved for instead of trained."""
