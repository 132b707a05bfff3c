"""Tables that several commands show; the tables of a single command are in its module."""
