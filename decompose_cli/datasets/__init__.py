"""Labelled images: where they are, how they are read, and what their classes are called."""
