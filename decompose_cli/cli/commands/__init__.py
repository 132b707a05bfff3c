"""The subcommands. Each parses, calls its engine, shows and saves; engines are imported inside."""
