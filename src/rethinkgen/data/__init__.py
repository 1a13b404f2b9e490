"""Where images come from, what is corrupted, and how batches reach the network."""
