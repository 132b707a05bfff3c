"""Changes to files: each mutator takes random numbers and the content of a file, and returns another content."""
