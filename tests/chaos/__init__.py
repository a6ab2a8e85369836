"""Kills and freezes a small Parfocal at random and judges what became of the jobs; see README.md."""
