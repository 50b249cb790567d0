"""Looking inside: each file is one study, a function that computes numbers, and one that draws them.

The commands are in `tinyres.study.commands`.
"""
