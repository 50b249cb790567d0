// What somebody types is mostly a task: pages that say how to do it come before functions that have it in their names.
var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    if (/^(howto|tutorials)\//.test(page)) return 2 * score;
    if (/^(commands|faq|glossary)$/.test(page)) return 1.5 * score;
    if (/^(api|_modules)\//.test(page)) return 0.5 * score;
    return score;
  },
  // the rest is Sphinx's own
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
