"""What only the training of soft gates needs."""
