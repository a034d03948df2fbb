// What look.py asks of a page, as functions of `look`.
window.look = (() => {
  // an element by its path
  const named = (element) => {
    const path = [];
    for (let at = element; at && at !== document.body && path.length < 4; at = at.parentElement) {
      const classes = [...at.classList].slice(0, 2).map((c) => '.' + c).join('');
      path.unshift(at.tagName.toLowerCase() + (at.id ? '#' + at.id : classes));
    }
    return path.join(' > ');
  };
  const scrolls = (e) => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  const wider = (e) => e.scrollWidth > e.clientWidth + 1;
  const excess = (e) => `${e.scrollWidth} > ${e.clientWidth}`;

  // Furo hides what is too wide for the page, or lets the whole content scroll
  function overflow() {
    const content = document.querySelector('.content');
    const frame = [document.documentElement, document.body, content].find(wider);
    if (!frame) return [];
    let widest = frame, right = 0;
    for (const e of content.querySelectorAll('*')) {
      let held = false;
      for (let at = e.parentElement; at !== content; at = at.parentElement) held ||= scrolls(at);
      const box = e.getBoundingClientRect();
      if (!held && box.right > right) [widest, right] = [e, box.right];
    }
    return [['overflow', named(widest), excess(frame)]];
  }

  // not every browser gives focus to what scrolls
  const unreachable = () => [...document.querySelectorAll('.page *')]
    .filter((e) => scrolls(e) && wider(e) && e.checkVisibility({visibilityProperty: true}))
    .filter((e) => !e.matches('[tabindex="0"]') && !e.querySelector('a[href], button, input, [tabindex="0"]'))
    .map((e) => ['scrolls without focus', named(e), excess(e)]);

  const images = () => [...document.images].filter((e) => !e.complete || !e.naturalWidth)
    .map((e) => ['image', named(e), e.currentSrc]);

  function contrast(...colours) {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [low, high] = colours.map((text) => {
      const [r, g, b] = text.match(/[\d.]+/g).map((v) => linear(v / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    }).sort((a, b) => a - b);
    return high / low;
  }

  // axe does not look into drawings
  function picture(svg, name) {
    const found = [], texts = [], {width, height} = svg.viewBox.baseVal;
    const paper = getComputedStyle(document.body).backgroundColor;
    const boxes = [...svg.querySelectorAll('rect')].map((e) => [e, e.getBBox()]);
    let smallest = Infinity;
    for (const e of svg.querySelectorAll('text')) {
      if (!e.textContent.trim()) continue;
      const label = `"${e.textContent}"`, style = getComputedStyle(e), box = e.getBBox();
      const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
      smallest = Math.min(smallest, parseFloat(style.fontSize) * svg.getScreenCTM().a);
      // a line's box is taller than its letters; a pixel more or less does not show
      const t = {
        x0: box.x + 1, x1: box.x + box.width - 1, y0: box.y + box.height / 5, y1: box.y + box.height * 0.8,
      };
      if (t.x0 < 0 || t.x1 > width || t.y0 < 0 || t.y1 > height)
        found.push(['text leaves the picture', name, label]);
      const [under, b] = boxes.findLast(([, b]) =>
        b.x <= x && x <= b.x + b.width && b.y <= y && y <= b.y + b.height) || [];
      if (under && /^on-/.test(e.getAttribute('class')) && (t.x0 < b.x || t.x1 > b.x + b.width))
        found.push(['text leaves its box', name, label]);
      const ratio = contrast(style.fill, under ? getComputedStyle(under).fill : paper);
      if (ratio < 4.5) found.push(['contrast in a picture', name, `${label} ${ratio.toFixed(2)}`]);
      for (const [other, o] of texts)
        if (t.x0 < o.x1 && o.x0 < t.x1 && t.y0 < o.y1 && o.y0 < t.y1)
          found.push(['texts overlap', name, `${label} ${other}`]);
      texts.push([label, t]);
    }
    if (smallest < 9.5) found.push(['small text', name, `${smallest.toFixed(1)} pixels`]);
    return found;
  }

  const measure = () => [
    ...overflow(), ...unreachable(), ...images(),
    ...[...document.querySelectorAll('svg.picture')].flatMap((svg, i) => picture(svg, `picture ${i + 1}`)),
  ];

  async function judge() {
    const {violations, passes, incomplete} = await axe.run(document, {resultTypes: ['violations']});
    const why = (node, rule) => [...node.any, ...node.all, ...node.none, {message: rule.help}][0].message;
    return {
      passes: passes.map((rule) => rule.id),
      incomplete: incomplete.map((rule) => rule.id),
      violations: violations.map((rule) => ({
        id: rule.id, impact: rule.impact, nodes: rule.nodes.map((node) => [node.target.join(' '), why(node, rule)]),
      })),
    };
  }

  // a checkbox of Furo's shows its focus on the icon of its label
  const icon = (e) => [...((e.type === 'checkbox' && e.labels) || [])]
    .filter((label) => label.checkVisibility()).map((label) => label.querySelector('.icon')).find(Boolean);
  const looks = (e) => [e, icon(e)].filter(Boolean).map(getComputedStyle)
    .map((s) => [s.outlineStyle === 'none' ? '' : s.outlineWidth + s.outlineColor, s.boxShadow]).join();
  const before = new Map(), walked = new Set();

  // how each element looks without focus
  function remember() {
    walked.clear();
    for (const e of document.querySelectorAll('a, button, input, summary, [tabindex]')) before.set(e, looks(e));
  }

  const PARTS = {
    'skip link': '.skip-to-content', 'search field': '.sidebar-search', menu: '#__navigation', contents: '#__toc',
    theme: '.theme-toggle', result: 'ul.search a', navigation: '.sidebar-tree *', content: 'article *',
    'this page': '.toc-tree *', footer: 'footer *',
  };
  function focus() {
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const box = (icon(e) || e).getBoundingClientRect();
    const first = !walked.has(e);
    walked.add(e);
    return {
      part: Object.keys(PARTS).find((part) => e.matches(PARTS[part])) || 'other',
      name: `${e.tagName.toLowerCase()}.${e.className} ${(e.textContent || e.id).trim().slice(0, 30)}`,
      first,
      visible: looks(e) !== before.get(e),
      inside: box.width > 0 && box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight,
    };
  }

  // every colour, to compare the two ways to a dark page
  const colours = () => [...document.querySelectorAll('.page *')].map((e) => {
    const s = getComputedStyle(e);
    return [e.tagName, e.className, s.color, s.backgroundColor, s.fill, s.borderBottomColor].join(' ');
  });

  const settled = () => Promise.all(document.getAnimations().map((a) => a.finished))
    .then(() => new Promise(requestAnimationFrame));

  return {measure, judge, remember, focus, colours, settled};
})();
