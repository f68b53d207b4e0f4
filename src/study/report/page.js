// The parts of a study, and the page.
const studies = JSON.parse(document.getElementById('studies').textContent);
const page = document.getElementById('page');

function curvesFigure(study) {
  const byPoint = new Map(study.curves.map((c) => [c.point, c]));
  const labels = new Map(study.points.map((p) => [p.point, p.label]));
  const main = study.charts[0];
  let groups = [];  // what is shown at once
  if (main) {
    const xs = [...new Set(main.series.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b);
    groups = xs.map((x) => ({
      name: place(main, x),
      lines: main.series.flatMap((s) => s.points.filter((p) => p.x === x)
        .map((p) => ({ name: s.name, look: lookOf(s.name), point: p.point }))),
    }));
  } else {
    const points = [...labels.keys()];
    for (let i = 0; i < points.length; i += 8) {
      const some = points.slice(i, i + 8);
      groups.push({ name: `variants ${i + 1} to ${i + some.length}`, lines: some.map((point, look) => ({ name: labels.get(point), look, point })) });
    }
  }
  groups = groups.filter((g) => g.lines.some((l) => byPoint.has(l.point)));
  if (!groups.length) return null;
  let group = 0, what = 0, node = null;
  const controls = el('p', {});
  if (groups.length > 1) controls.append(chooser('which trials', groups.map((g) => g.name), (i) => { group = i; node.redraw(); }), ' ');
  controls.append(chooser('what is shown', ['test error', 'training loss'], (i) => { what = i; node.redraw(); }));
  node = figure('Learning curves', 'Means over the seeds of a point; the bands are 95 % intervals.', () => {
    const sets = groups[group].lines.filter((l) => byPoint.has(l.point)).map((l) => {
      const c = byPoint.get(l.point);
      const data = what === 0 ? c.errors.map((y, k) => ({ x: c.epochs[k], y, half: c.halves[k] }))
        : c.losses.map((y, k) => ({ x: c.train_epochs[k], y }));
      const set = line(l.name, data, l.look, 'band');
      set.pointRadius = data.length < 15 ? 3.5 : 0;
      return set;
    });
    return {
      type: 'line', data: { datasets: sets },
      options: {
        interaction: { mode: 'nearest', axis: 'x', intersect: false },
        scales: {
          x: axis('epochs', { type: 'linear', min: 0 }),
          y: yScale(sets.flatMap((s) => s.data.flatMap(all)), what === 0 ? 'test error, %' : 'training loss',
            { log: true, limits: what === 0 ? [0, 100] : undefined }),
        },
        plugins: { tooltip: { callbacks: {
          title: (items) => `epoch ${number(items[0].parsed.x)}`,
          label: (item) => `${item.dataset.label}: ${what === 0 ? plusMinus({ mean: item.raw.y, half: item.raw.half }) + ' %' : item.raw.y.toFixed(3)}`,
        } } },
      },
    };
  }, { controls, wide: true, alwaysKey: true });
  return node;
}

function gapFigures(study, main) {
  if (!main) return [];
  const byPoint = new Map(study.points.map((p) => [p.point, p]));
  const ends = new Map(study.curves.map((c) => [c.point, c.train_error]));
  const figures = [];
  if ([...ends.values()].some(known)) {
    figures.push(axisFigure(main, 'Gap between training and test',
      'Error on test images, by the statistics kept for evaluation, minus error on the last training batches, by their own statistics.',
      'gap, points of error', (p) => {
        const end = ends.get(p.point);
        return known(end) && known(p.mean) ? { mean: p.mean - end } : null;
      }, 'points'));
  }
  // By the other statistics that evaluations used; the intervals are of differences between the same weights.
  for (const name of new Set(study.points.flatMap((p) => Object.keys(p.gaps)))) {
    figures.push(axisFigure(main, `Evaluated with ${name} statistics`,
      'Error of the same weights minus that with the statistics otherwise used; below zero is better.',
      'difference, points of error', (p) => (byPoint.get(p.point) || { gaps: {} }).gaps[name], 'points'));
  }
  return figures;
}

function costFigure(study) {
  const points = study.points.filter((p) => p.n > 0);
  if (!points.length || points.length > 60) return null;
  const kinds = [
    ['core seconds', (p) => p.core_seconds, 'core seconds per trial'],
    ['messages', (p) => p.messages, 'messages that a worker gives per trial'],
    ['megabytes', (p) => p.bytes / 1e6, 'megabytes that a worker gives per trial'],
  ];
  let kind = 0, node = null;
  const controls = el('p', {}, chooser('what is shown', kinds.map((k) => k[0]), (i) => { kind = i; node.redraw(); }));
  node = figure('Time and messages of a trial', 'Times are of this machine, with other trials beside; messages and bytes are not.', () => {
    const narrow = node && node.clientWidth < 520;
    const y = axis('', { title: { display: false } });
    y.ticks = { color: color('--ink'), autoSkip: false, font: { size: narrow ? 10 : 12 },
      callback: (v, i) => { const t = points[i].label; return narrow && t.length > 26 ? t.slice(0, 25) + '\u2026' : t; } };
    y.grid = { display: false };
    return {
      type: 'bar', height: `${Math.max(8, 4.5 + points.length * 1.5)}rem`,
      data: { labels: points.map((p) => p.label), datasets: [{
        label: kinds[kind][2], data: points.map(kinds[kind][1]), look: 0, backgroundColor: colorOf(0), maxBarThickness: 18,
      }] },
      options: { indexAxis: 'y', scales: { x: axis(kinds[kind][2], { beginAtZero: true }), y } },
    };
  }, { controls, wide: true });
  return node;
}

function table(heads, rows) {
  return el('div', { class: 'scroll' }, el('table', {},
    el('thead', {}, el('tr', {}, heads.map((h) => el('th', { scope: 'col' }, h)))),
    el('tbody', {}, rows.map((r) => el('tr', {}, r.map((c) => (c instanceof Node ? c : el('td', {}, c))))))));
}

function pointsTable(study) {
  const searched = study.trials.some((t) => t.search);
  return table(['', 'test error, %', 'trials', 'no result', 'workers', 'images a worker', 'global batch', 'bn_span', 'lr',
    ...(searched ? ['factor chosen'] : []), 'updates', 'core time'],
    study.points.map((p) => [p.label, known(p.mean) ? plusMinus(p) : '\u2013', String(p.n),
      el('td', { class: p.without ? 'bad' : null }, p.without ? String(p.without) : ''), number(p.workers), number(p.samples_per_worker),
      number(p.global_batch), p.bn_span ? number(p.bn_span) : '\u2013', number(p.lr),
      ...(searched ? [number(p.lr_factor)] : []), number(p.updates), p.n ? duration(p.core_seconds) : '']));
}

function trialsTable(study) {
  return table(['', 'seed', 'lr', 'status', 'error, %', 'time', 'message'], study.trials.map((t) => [
    t.label + (t.search ? ' (search)' : ''), String(t.seed), number(t.lr),
    el('td', { class: ['diverged', 'failed'].includes(t.status) ? 'bad' : null }, t.status),
    known(t.error) ? t.error.toFixed(2) : '', duration(t.seconds), el('td', { class: 'text' }, t.message)]));
}

function machine(study) {
  const m = study.machine, entries = [['syncbn', study.version], ['command', study.command]];
  for (const key of ['processor', 'cores', 'system']) if (known(m[key])) entries.push([key, String(m[key])]);
  for (const [key, value] of Object.entries(m.versions || {})) if (key !== 'syncbn') entries.push([key, String(value)]);
  return el('dl', {}, entries.flatMap(([k, v]) => [el('dt', {}, k), el('dd', {}, v)]));
}

// A table of hundreds of rows is made when somebody opens it.
function later(title, make) {
  const node = el('details', {}, el('summary', {}, title));
  node.addEventListener('toggle', () => { if (node.open && node.children.length === 1) node.append(make()); });
  return node;
}

function section(study, index) {
  looks = new Map();
  const shown = study.charts.length ? study.charts : [study.variants].filter(Boolean);
  for (const s of shown.flatMap((c) => c.series)) s.name = s.name || 'all trials';
  const unfinished = study.trials_planned - study.trials_ended;
  const seeds = new Set(study.trials.filter((t) => !t.search).map((t) => t.seed)).size;
  const node = el('section', { id: `study-${index}` },
    el(studies.length > 1 ? 'h2' : 'h1', {}, study.title),
    el('p', { class: 'soft' }, `${study.points.length} variant${study.points.length === 1 ? '' : 's'}, ${study.trials_planned} trials` +
      `${study.trials_of_search ? ` (${study.trials_of_search} of them to choose learning rates)` : ''}, up to ${seeds} seed${seeds === 1 ? '' : 's'} each` +
      (unfinished > 0 ? `; ${unfinished} have not ended yet` : '')),
    el('div', { class: 'answer' }, el('ul', {}, study.answer.map((line) => el('li', {}, line))),
      el('p', { class: 'soft' }, study.notes.join(' '))));
  const about = 'Means over seeds at the end of training, with 95 % intervals.' + (study.points.some((p) => p.without)
    ? ' \u00d7: some trials diverged or failed, and the mean is of the others; on the upper edge: all did.' : '');
  const figures = shown.map((c, i) => axisFigure(c, `Test error by ${c.title.toLowerCase()}`, i === 0 ? about : '',
    'test error, %', (p) => p, '%', [0, 100]));
  figures.push(...gapFigures(study, shown[0]));
  if (figures.length % 2) figures[figures.length - 1].classList.add('wide');
  node.append(el('div', { class: 'charts' }, [...figures, curvesFigure(study), costFigure(study)].filter(Boolean)));
  node.append(el('h2', {}, 'Variants'), pointsTable(study),
    later(`All ${study.trials_planned} trials` + (study.trials.length > study.trials_planned
      ? ` in ${study.trials.length} rows: some are of several variants` : ''), () => trialsTable(study)),
    el('h2', {}, 'What was run'), machine(study),
    later('The study', () => el('pre', {}, study.text)),
    later('The resolved configuration of the first trial', () => el('pre', {}, study.experiment)));
  return node;
}

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
if (studies.length > 1) {
  page.append(el('h1', {}, `${studies.length} studies`),
    el('nav', {}, studies.map((s, i) => el('a', { href: `#study-${i}` }, s.title))));
}
studies.forEach((s, i) => page.append(section(s, i)));
// Charts come to life when they come near the screen.
const watcher = new IntersectionObserver((entries) => entries.forEach((e) => {
  if (!e.isIntersecting) return;
  watcher.unobserve(e.target);
  e.target.alive = true;
  e.target.redraw();
}), { rootMargin: '300px' });
document.querySelectorAll('figure').forEach((f) => watcher.observe(f));
dark.addEventListener('change', () => document.querySelectorAll('figure').forEach((f) => { if (f.alive) f.redraw(); }));
addEventListener('beforeprint', () => document.querySelectorAll('figure').forEach((f) => f.redraw()));
