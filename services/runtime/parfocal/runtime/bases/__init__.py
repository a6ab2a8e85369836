"""Bases of implementations: what methods of one kind of data and output have in common."""
