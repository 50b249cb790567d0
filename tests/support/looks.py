"""What a browser is asked about a page that it shows, and the screens that it shows it on."""

DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}

CONTRAST = """() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const worst = [];
  for (const e of document.querySelectorAll("body *:not(script)")) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!text || !e.getClientRects().length || e.closest("svg")) continue;
    let ground = e; while (parse(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const a = light(parse(getComputedStyle(e).color)), b = light(parse(getComputedStyle(ground).backgroundColor));
    worst.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent.slice(0, 30)]);
  }
  return worst.sort((p, q) => p[0] - q[0]);
}"""
"""Of each text that can be seen, WCAG's contrast with its ground (2.2, 1.4.3) and its beginning; the least first."""
