"""Measures of images by themselves, and of pairs of them: noise, sharpness, shift, similarity."""
