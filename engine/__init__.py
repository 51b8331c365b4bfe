"""The engine of MFT Studio: contract, launch, data, model, train, export, chat.  Imports no web framework."""

__version__ = "0.1.0"
