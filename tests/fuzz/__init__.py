"""Random messages to every RPC and random files to every parser; see `python -m fuzz --help`."""
