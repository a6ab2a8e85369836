"""Images: files of every format, what their pixels and headers tell, and what a method needs of them."""
