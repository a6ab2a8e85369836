"""What figures of several kinds of quality control share."""
