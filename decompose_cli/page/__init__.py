"""The report: one HTML page from result files, with everything in it."""
