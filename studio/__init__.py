"""The web studio: pages over files.  It never imports torch, and no training depends on it."""
