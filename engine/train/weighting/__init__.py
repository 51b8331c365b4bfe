"""Task weights over time: pure arithmetic from validation losses to weights; the model is never touched."""
