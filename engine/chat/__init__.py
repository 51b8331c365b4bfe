"""Talk to a model and its adapter."""
