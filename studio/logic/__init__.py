"""What the pages show, as plain values; no gradio in here."""
