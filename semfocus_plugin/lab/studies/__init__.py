"""Studies whose figures the documents quote: each module computes tables; ``semfocus lab`` prints them.

A table is a title and its rows as text, headings first.
"""
