"""Reports for people, of trainings and of quality control: their content, and how it is written as PDF.

`content.py` says what a report consists of, `pdf.py` sets it on pages, `text.py` and `fonts.py` are what both need.
"""
