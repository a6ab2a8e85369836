"""Models of Parfocal in napari."""
