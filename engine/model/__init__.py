"""Models: sources, loading, adapters."""
