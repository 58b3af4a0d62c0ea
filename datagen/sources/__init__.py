"""Source material (handwriting, words), split before anything is drawn from it."""
