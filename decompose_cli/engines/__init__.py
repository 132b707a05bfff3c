"""One module per command. Each has one public function that takes plain arguments and returns a typed result."""
