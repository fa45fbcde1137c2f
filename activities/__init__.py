"""The only code that touches Docker, git and the files of the host."""
