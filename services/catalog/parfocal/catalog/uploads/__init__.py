"""Uploads: what was begun, what may be sent, and how it is verified and published."""
