"""Config files: each is the notebook of its runs."""
