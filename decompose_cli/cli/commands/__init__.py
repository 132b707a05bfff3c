"""The subcommands, one to a module. Each parses, calls its engine, saves and shows; engines are imported inside."""
