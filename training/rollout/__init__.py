"""Sampling completions with vLLM, and the check that it agrees with the trainer."""
