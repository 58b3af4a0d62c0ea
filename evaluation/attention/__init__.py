"""Where a model looks: the attention on the image from which each token of an answer is predicted."""
