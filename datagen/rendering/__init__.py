"""Drawing: compositing of handwriting, cipher tables, PNG."""
