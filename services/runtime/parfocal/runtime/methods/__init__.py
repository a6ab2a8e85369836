"""Methods: what a service declares, and what it implements for the loops of the runtime."""
