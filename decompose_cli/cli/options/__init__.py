"""The options of the commands: each is declared once, and a parameter's type says which make it up."""
