"""Sparse heads on fixed features: fits, searches and measures, on tensors alone."""
