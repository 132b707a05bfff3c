"""Tables that several commands show; those of one command are in its module."""
