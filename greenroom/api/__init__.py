"""The host's API on a Unix socket: what the CLI and programs on the host talk to."""
