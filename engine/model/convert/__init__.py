"""Models that existed only as remote code, rewritten once for the native classes of transformers."""
