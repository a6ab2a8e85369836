"""The server process of every service: `python -m parfocal.runtime.server MODULE` (for example parfocal.care)."""
