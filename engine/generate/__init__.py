"""Prompts to answers: one loop for the chat, the endpoint, evaluations and samples."""
