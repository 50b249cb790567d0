// What somebody types is mostly a task: pages that say how to do it come before functions and options that have it in
// their names. Pages about it come first of all: those with all the words in the title, or in a keyword such as
// "batch_size_howto". To Sphinx, keywords are words of the text. It takes endings off; "_howto" stays.
var Scorer = {
  about: () => {
    const {titles, terms} = Search._index, asked = new URLSearchParams(location.search).get("q").toLowerCase();
    const begin = word => new Stemmer().stemWord(word).replace(/[ei]$/, ""); // "memori" is the stem of "memory"
    const words = splitQuery(asked).filter(word => !stopwords.has(word)).map(word => RegExp(`\\b${begin(word)}`, "i"));
    const fits = text => words.every(word => word.test(text));
    const keywords = Object.keys(terms).filter(term => term.endsWith("_howto") && fits(term.replaceAll("_", " ")));
    return new Set([...keywords.flatMap(keyword => terms[keyword]).map(page => titles[page]), ...titles.filter(fits)]);
  },
  score: ([page, title, anchor, description, score]) => {
    Scorer.found ??= Scorer.about();
    const about = !anchor && Scorer.found.has(title) ? 100 : 0;
    if (anchor.startsWith("#cmdoption-")) return 0.25 * score;
    if (/^(howto|tutorials)\/(?!index)/.test(page)) return about + 2 * score;
    if (/^(commands|faq|glossary)$/.test(page)) return about + 1.5 * score;
    if (/^(api|_modules)\//.test(page)) return 0.5 * score;
    return about + score;
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
