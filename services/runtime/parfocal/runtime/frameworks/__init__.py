"""Drivers of the deep-learning frameworks; the only modules that import one."""
