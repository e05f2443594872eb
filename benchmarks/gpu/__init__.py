"""The check of a GPU: are the kernels right on it, how fast are they, and what is it capable of."""
