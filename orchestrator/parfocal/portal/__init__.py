"""The portal: Parfocal in a browser, for people who use no terminal."""
