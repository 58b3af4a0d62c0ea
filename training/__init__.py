"""GRPO of a vision-language model on the tasks of `datagen`, from a laptop to several machines."""
