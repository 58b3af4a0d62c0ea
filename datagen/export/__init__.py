"""Datasets as tasks of other evaluators and trainers, one module a target."""
