'use strict';
(() => {
  const studies = JSON.parse(document.getElementById('studies').textContent);
  const page = document.getElementById('page');
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const palettes = {  // told apart by people who see few colours; every series has a marker of its own as well
    light: ['#0068ad', '#c44f00', '#00795a', '#8f3f97', '#8a6400', '#2f7fa8', '#5f6670', '#a1282f'],
    dark: ['#6bb8ff', '#ff9a5c', '#48d6a8', '#e39ae0', '#f0c553', '#9fdcff', '#c3cad2', '#ff9d9d'],
  };
  const markers = ['circle', 'rect', 'triangle', 'rectRot', 'crossRot', 'star', 'rectRounded', 'cross'];
  const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
  const charts = [];  // functions that draw one again, after a change of colours

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colorOf = (i) => palettes[dark.matches ? 'dark' : 'light'][i % 8];
  const dashOf = (i) => dashes[Math.floor(i / 8) % dashes.length];

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null) node.setAttribute(name, value);
    }
    for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
    return node;
  }

  // A series looks the same in all charts of a study.
  let looks = new Map();
  function lookOf(name) {
    if (!looks.has(name)) looks.set(name, looks.size);
    return looks.get(name);
  }

  // ---- numbers ----
  const known = (v) => v !== null && v !== undefined;
  function fixed(value, half) {
    const digits = !known(half) || half >= 0.095 ? 2 : 3;
    return value.toFixed(digits).replace('-', '\u2212');
  }
  const plusMinus = (p) => (known(p.half) ? `${fixed(p.mean, p.half)} ± ${fixed(p.half, p.half)}` : fixed(p.mean, p.half));
  const tick = (chart, x) => (chart.categories.length ? chart.categories[x] : number(x));
  const place = (chart, x) => (chart.unit_first ? `${chart.unit} ${tick(chart, x)}`
    : `${number(x)} ${x === 1 ? chart.unit.replace(/^images/, 'image') : chart.unit}`);
  const number = (v) => (Math.abs(v) >= 1e4 ? Math.round(v).toLocaleString('en') : String(+v.toPrecision(4)).replace('-', '\u2212'));
  function duration(s) {
    if (!known(s)) return '';
    if (s < 100) return `${s.toFixed(1)} s`;
    return s < 6000 ? `${(s / 60).toFixed(1)} min` : `${(s / 3600).toFixed(1)} h`;
  }

  // ---- charts ----
  const intervals = {  // bars through the points, or a band around a line
    id: 'intervals',
    beforeDatasetsDraw(chart) {
      const { ctx, scales: { y } } = chart;
      chart.data.datasets.forEach((set, i) => {
        if (!chart.isDatasetVisible(i) || !set.intervals) return;
        const points = chart.getDatasetMeta(i).data;
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = set.borderColor;
        if (set.intervals === 'band') {
          const edge = set.data.map((d, k) => ({ x: points[k].x, d })).filter((e) => known(e.d.half));
          ctx.globalAlpha = 0.16;
          ctx.beginPath();
          edge.forEach((e) => ctx.lineTo(e.x, y.getPixelForValue(e.d.y + e.d.half)));
          edge.reverse().forEach((e) => ctx.lineTo(e.x, y.getPixelForValue(e.d.y - e.d.half)));
          ctx.fill();
        } else {
          ctx.lineWidth = 1.6;
          set.data.forEach((d, k) => {
            if (!known(d.half)) return;
            const px = points[k].x, top = y.getPixelForValue(d.y + d.half), bottom = y.getPixelForValue(d.y - d.half);
            ctx.beginPath();
            ctx.moveTo(px, top); ctx.lineTo(px, bottom);
            ctx.moveTo(px - 4, top); ctx.lineTo(px + 4, top);
            ctx.moveTo(px - 4, bottom); ctx.lineTo(px + 4, bottom);
            ctx.stroke();
          });
        }
        ctx.restore();
      });
    },
  };

  function axis(title, extra) {
    const ink = color('--soft');
    return Object.assign({
      title: { display: true, text: title, color: ink },
      ticks: { color: ink, callback: (v) => number(v) }, grid: { color: color('--line'), drawBorder: false },
    }, extra);
  }

  // Values of x spread evenly by their logarithm when they span a factor of 4 or more.
  function xScale(chart) {
    const xs = [...new Set(chart.series.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b);
    const log = !chart.categories.length && xs[0] > 0 && xs[xs.length - 1] / xs[0] >= 4;
    const to = (v) => (log ? Math.log2(v) : v);
    const from = (t) => xs.reduce((best, v) => (Math.abs(to(v) - t) < Math.abs(to(best) - t) ? v : best), xs[0]);
    const margin = chart.categories.length ? 0.5 : 0.06 * (to(xs[xs.length - 1]) - to(xs[0]) || 1);
    const scale = axis(chart.title + (log ? ' (logarithmic)' : ''), {
      type: 'linear', min: to(xs[0]) - margin, max: to(xs[xs.length - 1]) + margin,
      afterBuildTicks: (a) => { a.ticks = xs.map((v) => ({ value: to(v) })); },
    });
    scale.ticks.callback = (t) => tick(chart, from(t));
    scale.ticks.maxRotation = 0;
    scale.ticks.autoSkipPadding = 6;
    return { to, from, scale, step: chart.categories.length ? 0.6 / chart.series.length : margin / 14 };
  }

  // From the smallest to the largest value; by their logarithm when they span a factor of 10 or more.
  // Within the limits: an interval may reach where no value can be.
  function yScale(values, title, { pad = 0, limits = [-Infinity, Infinity], log = false } = {}) {
    const lowest = Math.min(...values), highest = Math.max(...values);
    if (log && lowest > 0 && highest / lowest >= 10) {
      const min = lowest / 1.15, max = Math.min(highest * 1.15, limits[1]);
      const places = [];
      for (let d = Math.floor(Math.log10(min)); d <= Math.log10(max); ++d) places.push(...[1, 2, 5].map((v) => v * 10 ** d));
      const scale = axis(`${title} (logarithmic)`, {
        type: 'logarithmic', min, max,
        afterBuildTicks: (a) => { a.ticks = places.filter((v) => v >= min && v <= max).map((value) => ({ value })); },
      });
      return scale;
    }
    return axis(title, {
      suggestedMin: Math.max(limits[0], lowest - pad), suggestedMax: Math.min(limits[1], highest + pad),
      min: lowest - pad < limits[0] ? limits[0] : undefined, max: highest + pad > limits[1] ? limits[1] : undefined,
    });
  }

  function glyph(i) {
    const size = 14, canvas = el('canvas', { width: 56, height: 28, 'aria-hidden': 'true', style: 'width:28px;height:14px' });
    const ctx = canvas.getContext('2d');
    ctx.scale(2, 2);
    ctx.strokeStyle = ctx.fillStyle = colorOf(i);
    ctx.lineWidth = 2;
    ctx.setLineDash(dashOf(i));
    ctx.beginPath(); ctx.moveTo(0, size / 2); ctx.lineTo(2 * size, size / 2); ctx.stroke();
    ctx.setLineDash([]);
    Chart.helpers.drawPoint(ctx, { pointStyle: markers[i % 8], radius: 4, borderWidth: 2 }, size, size / 2);
    return canvas;
  }

  // A figure with its key above the plot; `draw` returns what Chart.js needs.
  function figure(title, about, draw, options = {}) {
    const canvas = el('canvas', { role: 'img', 'aria-label': `${title}. The figures are in the tables below.` });
    const key = el('ul', { class: 'key' });
    const plot = el('div', { class: 'plot' }, canvas);
    const node = el('figure', { class: options.wide ? 'wide' : null }, el('h3', {}, title),
      about ? el('p', { class: 'soft' }, about) : null, options.controls || null, key, plot);
    const hidden = new Set();
    let chart = null;
    function redraw() {
      if (chart) chart.destroy();
      const spec = draw();
      if (spec.height) plot.style.height = spec.height;
      spec.options = Object.assign({ animation: false, responsive: true, maintainAspectRatio: false }, spec.options);
      spec.options.plugins = Object.assign({ legend: { display: false } }, spec.options.plugins);
      spec.data.datasets.forEach((set) => { set.hidden = hidden.has(set.label); });
      chart = new Chart(canvas, Object.assign({ plugins: [intervals] }, spec));
      key.replaceChildren(...(spec.data.datasets.length < 2 && !options.alwaysKey ? [] : spec.data.datasets).map((set, i) =>
        el('li', {}, el('button', {
          type: 'button', 'aria-pressed': String(!set.hidden), title: 'show or hide',
          onclick: (event) => {
            const show = !chart.isDatasetVisible(i);
            chart.setDatasetVisibility(i, show);
            if (show) hidden.delete(set.label); else hidden.add(set.label);
            event.currentTarget.setAttribute('aria-pressed', String(show));
            chart.update();
          },
        }, glyph(set.look), set.label))));
    }
    charts.push(redraw);
    node.redraw = redraw;
    return node;
  }

  function line(label, data, look, intervalsAs) {
    return {
      label, data, look, intervals: intervalsAs,
      borderColor: colorOf(look), backgroundColor: colorOf(look), borderDash: dashOf(look), borderWidth: 2,
      pointStyle: markers[look % 8], pointRadius: intervalsAs === 'band' ? 0 : 4.5, pointHoverRadius: 6, pointBorderWidth: 2,
      pointHitRadius: 12, tension: 0,
    };
  }

  // Lines over the study's own axis; value(p) gives what is drawn of a point.
  function axisFigure(chart, title, about, yTitle, value, unit, limits) {
    const own = chart.series.map((s) => lookOf(s.name));
    return figure(title, about, () => {
      const x = xScale(chart);
      const sets = chart.series.map((s, i) => {
        const shift = (i - (chart.series.length - 1) / 2) * x.step;  // so that intervals do not cover each other
        const data = s.points.map((p) => ({ p, v: value(p) })).filter((e) => e.v && known(e.v.mean))
          .map((e) => ({ x: x.to(e.p.x) + shift, y: e.v.mean, half: e.v.half, n: e.p.n }));
        return Object.assign(line(s.name, data, own[i], 'bars'), { showLine: !chart.categories.length });
      });
      const all = sets.flatMap((s) => s.data.flatMap((d) => [d.y - (d.half || 0), d.y + (d.half || 0)]));
      const pad = Math.max(0.25, 0.04 * (Math.max(...all) - Math.min(...all)));
      const y = yScale(all, yTitle, { pad, limits, log: limits !== undefined });
      return {
        type: 'line', data: { datasets: sets },
        options: {
          scales: {
            x: x.scale, y,
          },
          plugins: { tooltip: { callbacks: {
            title: (items) => place(chart, x.from(items[0].parsed.x)),
            label: (item) => `${item.dataset.label}: ${plusMinus({ mean: item.raw.y, half: item.raw.half })} ${unit}` +
              (item.raw.n ? ` (${item.raw.n} trial${item.raw.n === 1 ? '' : 's'})` : ''),
          } } },
        },
      };
    });
  }

  function chooser(label, names, change) {
    const select = el('select', { 'aria-label': label, onchange: () => change(+select.value) },
      names.map((n, i) => el('option', { value: i }, n)));
    return select;
  }

  // ---- parts of a study ----
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
            y: yScale(sets.flatMap((s) => s.data.map((d) => d.y)), what === 0 ? 'test error, %' : 'training loss', { log: true }),
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

  function gapFigures(study) {
    const main = study.charts[0];
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
    return table(['', 'test error, %', 'trials', 'no result', 'workers', 'images a worker', 'global batch', 'bn_span', 'lr', 'updates', 'core time'],
      study.points.map((p) => [p.label, known(p.mean) ? plusMinus(p) : '\u2013', String(p.n),
        el('td', { class: p.without ? 'bad' : null }, p.without ? String(p.without) : ''), number(p.workers), number(p.samples_per_worker),
        number(p.global_batch), p.bn_span ? number(p.bn_span) : '\u2013', number(p.lr), number(p.updates), p.n ? duration(p.core_seconds) : '']));
  }

  function trialsTable(study) {
    return table(['', 'seed', 'lr', 'status', 'error, %', 'time', 'message'], study.trials.map((t) => [
      t.label + (t.search ? ' (search)' : ''), String(t.seed), number(t.lr),
      el('td', { class: ['diverged', 'failed'].includes(t.status) ? 'bad' : null }, t.status),
      known(t.error) ? t.error.toFixed(2) : '', duration(t.seconds), el('td', { class: 'text' }, t.message)]));
  }

  function machine(study) {
    const m = study.machine, entries = [['syncbn', study.version], ['command', study.command.join(' ')]];
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
    for (const s of study.charts.flatMap((c) => c.series)) s.name = s.name || 'all trials';
    const unfinished = study.trials_planned - study.trials_ended;
    const seeds = new Set(study.trials.filter((t) => !t.search).map((t) => t.seed)).size;
    const node = el('section', { id: `study-${index}` },
      el(studies.length > 1 ? 'h2' : 'h1', {}, study.title),
      el('p', { class: 'soft' }, `${study.points.length} variants, ${study.trials_planned} trials, up to ${seeds} seed${seeds === 1 ? '' : 's'} each` +
        (unfinished > 0 ? `; ${unfinished} have not ended yet` : '')),
      el('div', { class: 'answer' }, el('ul', {}, study.answer.map((line) => el('li', {}, line))),
        el('p', { class: 'soft' }, study.notes.join(' '))));
    const figures = study.charts.map((c, i) => axisFigure(c, `Test error by ${c.title.toLowerCase()}`,
      i === 0 ? 'Means over seeds at the end of training, with 95 % intervals.' : '', 'test error, %', (p) => p, '%', [0, 100]));
    figures.push(...gapFigures(study));
    if (figures.length % 2) figures[figures.length - 1].classList.add('wide');
    node.append(el('div', { class: 'charts' }, [...figures, curvesFigure(study), costFigure(study)].filter(Boolean)));
    node.append(el('h2', {}, 'Variants'), pointsTable(study),
      later(`All ${study.trials.length} trials`, () => trialsTable(study)),
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
})();
