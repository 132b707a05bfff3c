"""What the report says, one module per subject; each makes a section of the result files that speak of it."""
