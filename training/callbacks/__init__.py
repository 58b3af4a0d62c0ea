"""What watches a run: metrics, validation, diagnosis."""
