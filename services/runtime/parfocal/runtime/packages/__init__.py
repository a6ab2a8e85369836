"""Packages of bioimage.io that become models: what they say, and whether the model here does what they say."""
