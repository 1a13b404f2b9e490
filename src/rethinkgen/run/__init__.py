"""A run: its identity, folder, checkpoints, results and screen."""
