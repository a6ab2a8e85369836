"""Drawing and correcting: shapes and operations on labels and boxes, and the drafts that keep them."""
