"""From task files to batches of tokens."""
