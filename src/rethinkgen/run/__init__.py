"""A run: its identity, folder, results and screen."""
