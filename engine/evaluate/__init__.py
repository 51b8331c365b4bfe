"""Whether the tuned model does each task better, and what it forgot."""
