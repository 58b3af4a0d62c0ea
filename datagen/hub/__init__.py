"""The Hugging Face Hub: fetching, publishing, and the cards of datasets and models."""
