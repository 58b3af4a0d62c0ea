"""Tasksets of verifiers 0.4 that others have written: asked by our evaluation and trainer, judged by their own rewards.

Their code is run. The user names the package, which is installed; nothing in a dataset or a checkpoint does. This is
the only room that imports verifiers.
"""
