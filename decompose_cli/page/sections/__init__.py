"""The sections of the report, one module per subject; each makes its section of the result files on the subject."""
