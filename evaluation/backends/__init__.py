"""What answers questions: transformers, vLLM, or an OpenAI-compatible server."""
