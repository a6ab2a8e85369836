"""Parts of figures that several kinds of quality control share."""
