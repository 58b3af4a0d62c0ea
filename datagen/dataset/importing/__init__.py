"""A dataset of your own images: from a table, a folder of classes or a dataset on the Hub, to a dataset folder."""
