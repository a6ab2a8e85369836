"""Quality control without targets: what a restoration removed from its input should be noise."""
