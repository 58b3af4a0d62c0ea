"""A dataset folder: what determines it, how it is built, proved and read."""
