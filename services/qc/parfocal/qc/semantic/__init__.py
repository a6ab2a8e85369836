"""Quality control of foreground masks and of probabilities of foreground."""
