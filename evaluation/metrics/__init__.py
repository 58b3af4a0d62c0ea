"""From answers to numbers: scores, intervals, comparisons, ablations."""
