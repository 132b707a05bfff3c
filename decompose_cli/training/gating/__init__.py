"""The parts that only the training of soft gates needs."""
