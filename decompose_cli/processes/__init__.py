"""Several processes that work on one command: how they are started, and how the first is helped by the others."""
