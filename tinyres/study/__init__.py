"""Looking inside: a study is a file with a function that computes numbers, and one that draws them.

Others help several studies (`plots`, `probe`, `variants`, `problems`) or one of them: `source`, `formulas`, `mosaic`,
`layout` and `page` make the page of `explain`, `exam` and `substitute` examine for the `gym`. The commands are in
`tinyres.study.commands`.
"""
