"""The options of the commands: each is declared once, and the type of a parameter says which options make it up."""
