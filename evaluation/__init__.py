"""Scoring a checkpoint or its completions with the tasks' own rewards: intervals, a comparison, and a report."""
