"""Start and watch processes: accelerate launches, one-shot jobs, devices.  No torch, no gradio."""
