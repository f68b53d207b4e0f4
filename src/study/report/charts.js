// Charts, and what they are made of.
const dark = matchMedia('(prefers-color-scheme: dark)');
const palettes = {  // told apart by people who see few colours; every series has a marker of its own as well
  light: ['#0068ad', '#c44f00', '#00795a', '#8f3f97', '#8a6400', '#2f7fa8', '#5f6670', '#a1282f'],
  dark: ['#6bb8ff', '#ff9a5c', '#48d6a8', '#e39ae0', '#f0c553', '#9fdcff', '#c3cad2', '#ff9d9d'],
};
const markers = ['circle', 'rect', 'triangle', 'rectRot', 'triangle', 'star', 'rectRounded', 'cross'];
const turns = [0, 0, 0, 0, 180, 0, 0, 0];  // of the markers, degrees
const troubled = 'crossRot';  // in the place of its series' marker: a point of which trials have no result
const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

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
const place = (chart, x) => (chart.unit_first ? `${chart.unit} ${tick(chart, x)}`.trim()
  : `${number(x)} ${x === 1 ? chart.unit.replace(/^images/, 'image') : chart.unit}`);
const number = (v) => (Math.abs(v) >= 1e4 ? Math.round(v).toLocaleString('en') : String(+v.toPrecision(4)).replace('-', '\u2212'));
function duration(s) {
  if (!known(s)) return '';
  if (s < 100) return `${s.toFixed(1)} s`;
  return s < 6000 ? `${(s / 60).toFixed(1)} min` : `${(s / 3600).toFixed(1)} h`;
}

// ---- charts ----
const intervals = {  // bars through the points, or a band around a line; points without a result on the upper edge
  id: 'intervals',
  afterDatasetsUpdate(chart) {
    chart.data.datasets.forEach((set, i) => set.data.forEach((d, k) => {
      if (d.lost) chart.getDatasetMeta(i).data[k].y = chart.chartArea.top + 7;
    }));
  },
  beforeDatasetsDraw(chart) {
    const { ctx, chartArea: area, scales: { y } } = chart;
    chart.data.datasets.forEach((set, i) => {
      if (!chart.isDatasetVisible(i) || !set.intervals) return;
      const points = chart.getDatasetMeta(i).data;
      ctx.save();
      ctx.beginPath();
      ctx.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
      ctx.clip();
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
  scale.ticks.callback = (t) => (chart.categories.length ? tick(chart, from(t)).split(', ') : tick(chart, from(t)));
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
  Chart.helpers.drawPoint(ctx, { pointStyle: markers[i % 8], rotation: turns[i % 8], radius: 4, borderWidth: 2 }, size, size / 2);
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
  node.redraw = redraw;
  return node;
}

function line(label, data, look, intervalsAs) {
  return {
    label, data, look, intervals: intervalsAs,
    borderColor: colorOf(look), backgroundColor: colorOf(look), borderDash: dashOf(look), borderWidth: 2,
    pointStyle: data.map((d) => (d.without ? troubled : markers[look % 8])), pointRotation: data.map((d) => (d.without ? 0 : turns[look % 8])),
    pointRadius: intervalsAs === 'band' ? 0 : data.map((d) => (d.without ? 6 : 4.5)), pointHoverRadius: 6, pointBorderWidth: 2,
    segment: { borderColor: (c) => (data[c.p0DataIndex].lost || data[c.p1DataIndex].lost ? 'transparent' : undefined) },
    pointHitRadius: 12, tension: 0,
  };
}

const all = (d) => [d.y - (d.half || 0), d.y + (d.half || 0)];  // what a scale must hold of a point

function trialsText(d) {
  const plural = (n) => `${n} trial${n === 1 ? '' : 's'}`;
  if (d.without) return `${d.without} of ${plural(d.without + d.n)} diverged or failed`;
  return d.n ? plural(d.n) : '';
}

// Lines over the study's own axis; value(p) gives what is drawn of a point.
function axisFigure(chart, title, about, yTitle, value, unit, limits) {
  const own = chart.series.map((s) => lookOf(s.name));
  return figure(title, about, () => {
    const x = xScale(chart);
    const sets = chart.series.map((s, i) => {
      const shift = (i - (chart.series.length - 1) / 2) * x.step;  // so that intervals do not cover each other
      const data = s.points.map((p) => ({ p, v: value(p) })).filter((e) => e.v && (known(e.v.mean) || e.v.without))
        .map((e) => ({ x: x.to(e.p.x) + shift, y: e.v.mean, half: e.v.half, n: e.p.n, without: e.v.without, lost: !known(e.v.mean) }));
      return Object.assign(line(s.name, data, own[i], 'bars'), { showLine: !chart.categories.length });
    });
    const drawn = sets.flatMap((s) => s.data), values = drawn.filter((d) => !d.lost).flatMap(all);
    if (!values.length) values.push(...(limits || [0, 1]));
    for (const d of drawn) if (d.lost) d.y = values[0];  // any place on the scale: the plugin moves it to the edge
    const pad = Math.max(0.25, 0.04 * (Math.max(...values) - Math.min(...values)));
    const y = yScale(values, yTitle, { pad, limits, log: limits !== undefined });
    return {
      type: 'line', data: { datasets: sets },
      options: {
        scales: {
          x: x.scale, y,
        },
        plugins: { tooltip: { callbacks: {
          title: (items) => place(chart, x.from(items[0].parsed.x)),
          label: (item) => `${item.dataset.label}: ` + (item.raw.lost ? trialsText(item.raw)
            : `${plusMinus({ mean: item.raw.y, half: item.raw.half })} ${unit}` + (trialsText(item.raw) && ` (${trialsText(item.raw)})`)),
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
