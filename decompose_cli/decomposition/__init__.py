"""The purpose of the project: index sets, rankings, penultimate features, and what is measured on them."""
