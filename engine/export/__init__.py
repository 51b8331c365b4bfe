"""From a trained run to a model that other tools can load."""
