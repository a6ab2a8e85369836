"""Quality control of objects: predicted ones paired one to one with those of the target."""
