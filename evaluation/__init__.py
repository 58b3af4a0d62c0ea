"""Scoring a checkpoint or its completions with the tasks' own rewards, before and after, with intervals and a report."""
