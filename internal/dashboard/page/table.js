// What the parts of the page are made of. Everything that is shown may be the text of
// others, so it becomes text of nodes and nothing else: there is no HTML in strings here.
'use strict';

const byId = (id) => document.getElementById(id);

// el makes an element with attributes and children, which are nodes or texts.
function el(tag, attributes, ...children) {
	const e = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes || {})) {
		if (name === 'on') {
			for (const [event, listener] of Object.entries(value)) e.addEventListener(event, listener);
		} else if (value !== false && value !== undefined && value !== null) {
			e.setAttribute(name, value === true ? '' : value);
		}
	}
	e.append(...children.filter((c) => c !== '' && c !== null && c !== undefined && c !== false));
	return e;
}

// setText changes a text only if it is another one, so that nothing is read aloud twice.
function setText(e, text) {
	if (e.textContent !== text) e.textContent = text;
}

// sync makes the children of a parent those of a list. Each item keeps its node, so focus
// and selection survive; what a node shows is replaced only if it has changed.
function sync(parent, items, key, fill) {
	const focused = document.activeElement;
	const known = parent.nodes || (parent.nodes = new Map());
	const tag = { TBODY: 'tr', UL: 'li', OL: 'li' }[parent.tagName];
	const used = new Set();
	let moved = false;
	items.forEach((item, i) => {
		const k = key(item);
		used.add(k);
		let node = known.get(k);
		if (!node) {
			node = document.createElement(tag);
			known.set(k, node);
		}
		if (parent.children[i] !== node) {
			moved = moved || node.contains(focused);
			parent.insertBefore(node, parent.children[i] || null);
		}
		fill(node, item);
	});
	for (const [k, node] of known) {
		if (!used.has(k)) {
			node.remove();
			known.delete(k);
		}
	}
	if (moved && focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

// cells gives a row its cells, once, and then changes what has changed. Each is
// [name, class, what it shows], where that is a text, or a function that fills the cell.
function cells(row, all) {
	if (!row.children.length) {
		all.forEach(([name, kind], i) => row.append(i ? el('td', { class: kind, 'data-name': name }) : el('th', { scope: 'row' })));
	}
	all.forEach(([, , value], i) => {
		const cell = row.children[i];
		if (typeof value === 'function') value(cell);
		else setText(cell, String(value));
	});
}

// remade has a node filled anew if what it is made of has changed.
function remade(node, of, make) {
	const now = JSON.stringify(of);
	if (node.madeOf === now) return;
	node.madeOf = now;
	const focused = document.activeElement;
	const at = node.contains(focused) && focused !== node ? [...node.querySelectorAll('button')].indexOf(focused) : -1;
	node.replaceChildren(...[].concat(make()).filter(Boolean));
	if (at >= 0) {
		const again = node.querySelectorAll('button')[at];
		if (again) again.focus({ preventScroll: true });
	}
}

// How numbers and times are spelled. The server's clock counts, not this one's.
let clockAhead = 0;
const now = () => Date.now() - clockAhead;

function span(seconds) {
	seconds = Math.max(0, seconds);
	if (seconds > 0 && seconds < 1) return Math.round(seconds * 1000) + ' ms';
	if (seconds < 90) return Math.round(seconds) + ' s';
	if (seconds < 5400) return Math.round(seconds / 60) + ' min';
	if (seconds < 172800) return Math.round(seconds / 3600) + ' h';
	return Math.round(seconds / 86400) + ' d';
}

function clock(time) {
	const date = new Date(time);
	const today = new Date(now()).toDateString() === date.toDateString();
	return today ? date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })
		: date.toLocaleString([], { dateStyle: 'short', timeStyle: 'short' });
}

const since = (time) => clock(time) + ' (' + span((now() - Date.parse(time)) / 1000) + ')';

function bytes(n) {
	for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
		if (n < 1024) return (n < 10 && unit !== 'B' ? n.toFixed(1) : Math.round(n)) + ' ' + unit;
		n /= 1024;
	}
	return Math.round(n) + ' TiB';
}

const perSecond = (x) => (x === 0 ? '0' : x < 10 ? x.toFixed(2).replace(/0$/, '') : Math.round(x).toString()) + '/s';
const number = (x) => x.toLocaleString('en');
const plural = (n, what) => number(n) + ' ' + what + (n === 1 ? '' : 's');

function milliseconds(x) {
	if (x < 0) return '–';
	return x < 1000 ? Math.round(x) + ' ms' : (x / 1000).toFixed(1) + ' s';
}

// sparkline draws a series, which its text says too.
function sparkline(values, step) {
	const svg = (tag, attributes) => {
		const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
		for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
		return e;
	};
	const most = Math.max(1, ...values);
	const width = Math.max(1, values.length - 1);
	const points = values.map((v, i) => i + ' ' + (100 - v / most * 96).toFixed(1));
	const picture = svg('svg', { viewBox: '0 0 ' + width + ' 100', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
	picture.append(svg('path', { class: 'area', d: 'M0 100L' + points.join('L') + 'L' + width + ' 100Z' }),
		svg('path', { d: 'M' + points.join('L') }));
	const text = 'Last ' + span(values.length * step) + ': ' + number(Math.min(...values)) + ' to ' + number(Math.max(...values)) + ' open.';
	return [picture, el('p', {}, text)];
}
