"""Quality control of a dataset, before anything is learnt from it.

`images` measures each image by itself, `checks` and `duplicates` find what is wrong with them together, `purpose` says
what they are good for, `thumbnails` and `sheets` draw them, and `job` is what a worker runs.
"""
