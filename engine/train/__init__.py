"""Train: the loss, the optimizer step, the record, the checkpoints."""
