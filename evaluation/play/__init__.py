"""A page to play with a checkpoint: `r1vlm-eval play`."""
