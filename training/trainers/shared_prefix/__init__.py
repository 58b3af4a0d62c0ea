"""Image and prompt once a group: a GRPO step that computes what its completions share only once.

`packing` puts prompts and completions into one row, `generation` samples with the prompt once, `trainer` is the mixin
for TRL's trainer, `trial` compares it with the plain path before the first step.
"""
