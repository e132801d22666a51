"""Reports: what a run has learned, as a page that a person reads."""
