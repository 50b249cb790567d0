"""Looking inside: a study is a file with a function that computes numbers, and one that draws them.

Others help several studies (`probe`, `trained`, `variants`, `problems`) or one of them: `source`, `formulas`, `mosaic`,
`layout`, `numbers` and `page` make the page of `explain`, whose script and style are in ``explain_page``; `exam` and
`substitute` examine for the `gym`. The commands are in `tinyres.study.commands`.
"""
