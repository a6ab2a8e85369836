"""Quality control of restored and translated images: predictions beside their targets, their inputs and a baseline."""
