// Asks for a summary every two seconds, while somebody looks, and shows it.
'use strict';

const interval = 2000;
const patience = 10000;

let summary = null; // the last one
const { version } = document.documentElement.dataset; // of this page
let paused = false;
let lost = 0; // since when there is no answer
let timer = 0;
const tags = {};

// get asks for something; null means that it is what it was.
async function get(what) {
	const headers = tags[what] ? { 'If-None-Match': tags[what].tag } : {};
	const response = await fetch(what, { headers, cache: 'no-store', signal: AbortSignal.timeout(patience), redirect: 'error' });
	const date = Date.parse(response.headers.get('Date'));
	if (date && Math.abs(Date.now() - date - clockAhead) > 1500) clockAhead = Date.now() - date;
	if (response.status === 304) return null;
	if (!response.ok) throw new Error(await problemOf(response));
	const answer = await response.json();
	for (const other of Object.keys(tags)) { // searches come and go
		if (other.split('?')[0] === what.split('?')[0]) delete tags[other];
	}
	tags[what] = { tag: response.headers.get('ETag') };
	return answer;
}

async function problemOf(response) {
	if (response.status === 401) return 'you are not logged in any more; load the page again';
	try {
		return (await response.json()).error;
	} catch {
		return 'status ' + response.status;
	}
}

async function poll() {
	clearTimeout(timer);
	if (paused || document.hidden) return;
	try {
		const answer = await get('summary');
		lost = 0;
		if (answer) summary = answer;
		showSummary();
		if (byId('recent').open) await showRecent();
		if (byId('tunnels').open) await showTunnels();
	} catch (err) {
		lost = lost || now();
		showLost(err);
	}
	clearTimeout(timer);
	if (!paused && !document.hidden) timer = setTimeout(poll, interval);
}

function showLost(err) {
	const why = err.name === 'TimeoutError' ? 'no answer in time' : err.name === 'TypeError' ? 'it cannot be reached' : err.message;
	setVerdict('bad', 'No answer from the server since ' + clock(lost) + '; what is below is old: ' + why, []);
}

function setVerdict(level, words, problems) {
	byId('banner').dataset.level = level;
	setText(byId('verdict'), words);
	sync(byId('problems'), problems, (p) => p.words, (node, p) => {
		remade(node, [p.words, p.do, p.since], () => [
			el('strong', {}, p.words), ' ', el('span', { class: 'since' }, 'Since ' + clock(p.since) + '.'), ' ',
			p.do && el('span', { class: 'do' }, p.do),
		]);
	});
	document.title = { good: '', warn: '⚠ ', bad: '✖ ' }[level] + 'WebSockets';
}

function showSummary() {
	byId('reload').hidden = version === summary.version;
	if (version === summary.version) {
		showVerdict(summary);
		showRest(summary);
		return;
	}
	setVerdict('warn', 'This page is older than the server. Load it again.', Array.isArray(summary.problems) ? summary.problems : []);
	try {
		showRest(summary);
	} catch (err) {
		console.warn('the server answers otherwise than this page expects:', err);
	}
}

function showVerdict(s) {
	if (s.level === 'good') setVerdict('good', 'Good', []);
	else setVerdict(s.level, (s.level === 'bad' ? 'Something is wrong' : 'Not all is well') + ' since ' + clock(s.problems[0].since), s.problems);
}

function showRest(s) {
	setText(byId('place'), location.host + (s.you ? ', ' + s.you : ''));
	showClients(s.tunnels);
	showWhys(s.whys);
	showGoing(s.going);
	showUpstreams(s);
}

function showClients(t) {
	setText(byId('open'), number(t.open));
	const change = t.open - t.before;
	const words = change === 0 ? 'as many as ' : number(Math.abs(change)) + (change > 0 ? ' more than ' : ' fewer than ');
	setText(byId('compared'), t.before_age < 890 ? '' : words + span(t.before_age) + ' ago' + (change ? ' (' + number(t.before) + ')' : ''));
	for (const name of ['opened', 'closed', 'refused']) setText(byId(name), perSecond(t[name]));
	remade(byId('spark'), t.series, () => (t.series.length < 2 ? el('p', {}, 'The last 15 minutes will be here.') : sparkline(t.series, t.step)));
}

function showWhys(whys) {
	byId('no-whys').hidden = whys.length > 0;
	sync(byId('whys'), whys, (w) => w.kind + w.why, (node, w) => remade(node, w, () => [
		el('div', {}, el('span', { class: 'count' }, number(w.count) + '×'), ' ' + (w.kind === 'end' ? 'cut: ' : 'refused: ') + w.words + ' ',
			el('code', { class: 'word' }, w.why)),
		w.do && el('div', { class: 'do' }, w.do),
	]));
}

function showGoing(all) {
	byId('no-going').hidden = all.length > 0;
	sync(byId('going'), all, (g) => g.upstream, (node, g) => {
		const left = g.tunnels ? number(g.tunnels) + ' of ' + plural(g.first, 'tunnel') + ' left' : 'empty';
		const set = g.by ? 'Set by ' + g.by + ' at ' + clock(g.since) + (g.expires ? ', until ' + clock(g.expires) : '') + '.' : '';
		let when = '';
		if (g.tunnels && (g.state === 'drain' || g.state === 'maint')) {
			when = perSecond(g.rate) + ' leave' + (g.half ? ', half gone since ' + clock(g.half) : '')
				+ (g.oldest ? '; the oldest is open for ' + span((now() - Date.parse(g.oldest)) / 1000) : '') + '. Clients decide when it is empty.';
		} else if (g.tunnels) {
			when = g.empty ? 'Empty in about ' + span((Date.parse(g.empty) - now()) / 1000) + ', at ' + clock(g.empty) + '.' : 'No tunnel has ended lately.';
		}
		remade(node, [g, left, set, when], () => {
			const bar = el('progress', { max: Math.max(1, g.first), 'aria-label': g.upstream + ': ' + left });
			bar.value = g.first - g.tunnels;
			return [el('div', {}, el('strong', {}, g.upstream), ' ', el('span', { class: 'state', 'data-status': g.state }, g.state), ' ' + left),
				bar, el('div', { class: 'do' }, [set, when].filter(Boolean).join(' '))];
		});
	});
}

const opened = new Map(); // upstreams whose checks are shown, with the checks

function showUpstreams(s) {
	const most = Math.max(1, ...s.rows.map((r) => r.tunnels));
	sync(byId('upstreams').tBodies[0], s.rows, (r) => r.handler + '\n' + r.upstream, (row, r) => cells(row, [
		['', '', (cell) => remade(cell, [r.upstream, opened.get(r.upstream), opened.has(r.upstream)], () => upstreamCell(r))],
		['handler', 'text', r.handler],
		['', '', (cell) => remade(cell, r.status, () => el('span', { class: 'state', 'data-status': r.status }, r.status))],
		['', 'meter', (cell) => remade(cell, [r.tunnels, r.most, most, r.weight, r.load, r.handshakes, r.handshakes_limit], () => meter(r, most))],
		['opened', 'n', perSecond(r.opened)],
		['closed', 'n', perSecond(r.closed)],
		['handshake p50', 'n', milliseconds(r.p50) + (r.slow ? ' slow' : '')],
		['p99', 'n', milliseconds(r.p99)],
		['failures', 'text', [r.error, r.agent && 'agent: ' + r.agent, ...Object.entries(r.failed || {}).map(([cause, n]) => n + '× ' + cause)].filter(Boolean).join(', ')],
		['set by', 'text', r.by ? r.by + ', ' + since(r.since) + (r.expires ? ', until ' + clock(r.expires) : '') : ''],
		['', 'do-cell', (cell) => remade(cell, [s.actions, r.state], () => (s.actions && r.state ? stateButtons(r.upstream, r.handler) : []))],
	]));
	setText(byId('more'), s.more ? plural(s.more, 'more upstream') + ' in better states: caddy websockets list shows all.' : '');
}

function upstreamCell(r) {
	const open = opened.has(r.upstream);
	const button = el('button', { type: 'button', 'aria-expanded': String(open), on: { click: () => toggleChecks(r.upstream) } }, open ? 'Hide checks' : 'Checks');
	const list = open && el('ol', { class: 'checks' }, ...(opened.get(r.upstream) || []).slice().reverse().map((c) => el('li', { class: c.error ? 'wrong' : '' },
		clock(c.at) + ' ' + (c.error ? 'failed' : 'passed') + ' in ' + span(c.took) + (c.error ? ': ' + c.error : ''))));
	if (list && !list.children.length) list.append(el('li', {}, 'No active check has looked at it.'));
	return [el('div', {}, r.upstream), button, list];
}

async function toggleChecks(upstream) {
	if (opened.delete(upstream)) return showUpstreams(summary);
	opened.set(upstream, []);
	try {
		const answer = await get('upstream?address=' + encodeURIComponent(upstream));
		if (answer) opened.set(upstream, answer.checks || []);
	} catch (err) {
		opened.set(upstream, [{ at: new Date(now()).toISOString(), took: 0, error: err.message }]);
	}
	delete tags['upstream?address=' + encodeURIComponent(upstream)];
	return showUpstreams(summary);
}

function meter(r, most) {
	const of = r.most || most;
	const fill = el('div', { class: 'fill' });
	fill.style.width = Math.min(100, r.tunnels / of * 100) + '%';
	return [el('div', {}, number(r.tunnels) + (r.most ? ' of ' + number(r.most) : '') + ' ',
		r.handshakes_limit && el('span', { class: 'word' }, 'handshakes ' + (r.handshakes || 0) + ' of ' + number(r.handshakes_limit) + ' '),
		r.weight >= 0 && r.weight !== 1 && el('span', { class: 'word' }, 'weight ' + r.weight + ' '),
		r.load && el('span', { class: 'word' }, 'load ' + Math.round(r.load * 100) + '%')), el('div', { class: 'track', 'aria-hidden': 'true' }, fill)];
}

let events = [];
let lastEvent = 0;

async function showRecent() {
	const answer = await get('recent?after=' + lastEvent);
	if (answer) {
		if (answer.last < lastEvent) events = []; // the server has begun anew
		lastEvent = answer.last;
		const known = events.length ? events[events.length - 1].n : 0; // two questions may have been under way
		events = events.concat((answer.events || []).filter((e) => e.n > known)).slice(-200);
	}
	const words = byId('recent-filter').value.toLowerCase();
	const kind = byId('recent-kind').value;
	const shown = events.filter((e) => (!kind || e.kind === kind) && (!words || JSON.stringify(e).toLowerCase().includes(words))).reverse();
	setText(byId('recent-count'), number(shown.length) + ' of ' + number(events.length));
	sync(byId('recent').querySelector('tbody'), shown, (e) => e.n, (row, e) => row.children.length || cells(row, [
		['', '', clock(e.at)],
		['', '', e.kind === 'end' ? 'end' : 'refused'],
		['', 'text', (cell) => cell.append(e.words + ' ', el('code', { class: 'word' }, e.why))],
		['client', 'text address', e.client_ip || ''],
		['upstream', 'text address', e.upstream || ''],
		['handler', 'text', e.handler || 'default'],
		['lasted', 'n', e.kind === 'end' ? span(e.lasted || 0) : ''],
		['code', 'n', e.code || ''],
		['', 'text', [e.detail, e.by && 'by ' + e.by, e.tunnel && 'tunnel ' + e.tunnel, labels(e.labels)].filter(Boolean).join(', ')],
	]));
}

const labels = (all) => Object.entries(all || {}).map(([name, value]) => name + '=' + value).join(' ');

let listed = null; // the last list, with the search that has found it

async function showTunnels() {
	const search = byId('tunnels-search').value;
	const answer = await get('tunnels?search=' + encodeURIComponent(search) + '&sort=' + byId('tunnels-sort').value);
	if (answer) listed = { ...answer, search };
	if (!listed) return;
	setText(byId('tunnels-count'), plural(listed.matching, 'tunnel') + (listed.matching > listed.tunnels.length ? ', the first ' + listed.tunnels.length : '')
		+ (listed.matching < listed.total ? ' of ' + number(listed.total) : ''));
	byId('close-these').hidden = !summary.actions || !listed.matching || !listed.search;
	setText(byId('close-these'), 'Close these ' + number(listed.matching));
	sync(byId('tunnels').querySelector('tbody'), listed.tunnels, (t) => t.id, (row, t) => cells(row, [
		['', '', t.id],
		['client', 'text address', t.client_ip],
		['upstream', 'text address', t.upstream],
		['handler', 'text', t.handler || 'default'],
		['labels', 'text', labels(t.labels)],
		['age', 'n', span(Math.round(t.age))],
		['idle', 'n', span(Math.round(t.idle))],
		['in', 'n', bytes(t.bytes_in)],
		['out', 'n', bytes(t.bytes_out)],
		['rate', 'n', bytes(t.bytes_rate) + '/s'],
		['', 'do-cell', (cell) => remade(cell, summary.actions, () => (summary.actions ? el('button', { type: 'button', on: { click: () => askCloseOne(t) } }, 'Close') : []))],
	]));
}

// What changes something. Each asks first, with the count that it shows.

let pending = null; // what the dialog is about

function stateButtons(upstream, handler) {
	const row = summary.rows.find((r) => r.upstream === upstream && r.handler === handler);
	return ['ready', 'drain', 'maint', 'evict'].filter((state) => state !== row.state && !(state === 'ready' && row.state === 'removed'))
		.map((state) => el('button', { type: 'button', on: { click: () => askState(upstream, state) } }, state));
}

function askState(upstream, state) {
	const row = () => summary.rows.find((r) => r.upstream === upstream) || { all: 0, state: 'gone' };
	ask({
		title: { ready: 'Make ready: ', drain: 'Drain: ', maint: 'Close to everybody: ', evict: 'Evict: ' }[state] + upstream,
		text: () => ({
			ready: 'It gets tunnels again.',
			drain: 'Newcomers go elsewhere; clients that belong there still get in. The ' + number(row().all) + ' that are open stay.',
			maint: 'It gets no new tunnels, whoever comes; the ' + number(row().all) + ' that are open stay.',
			evict: 'This will cut ' + plural(row().all, 'client') + ', one after another. They are asked to come back, to other upstreams.',
		}[state]),
		yes: { ready: 'Make ready', drain: 'Drain', maint: 'Close it', evict: 'Evict' }[state],
		period: state === 'evict',
		make: () => ({ count: row().all, seen: row().state }),
		send: (action) => send('POST', 'state', { ...action, upstream, state, period: Number(byId('ask-period').querySelector('input').value) || 0 }),
	});
}

function askCloseOne(tunnel) {
	ask({
		title: 'Close tunnel ' + tunnel.id,
		text: () => 'This will cut 1 client: ' + tunnel.client_ip + '.',
		yes: 'Close',
		make: () => ({ count: 1 }),
		send: (action) => send('DELETE', 'tunnel?id=' + encodeURIComponent(tunnel.id), action),
	});
}

function askCloseThese() {
	const { search } = listed;
	ask({
		title: 'Close the tunnels that match “' + search + '”',
		text: () => 'This will cut ' + plural(listed.matching, 'client') + '.',
		yes: 'Close them',
		make: () => ({ count: listed.matching }),
		send: (action) => send('POST', 'close', { ...action, search }),
		again: showTunnels,
	});
}

function ask(question) {
	pending = question;
	setText(byId('ask-title'), question.title);
	setText(byId('ask-yes'), question.yes);
	setText(byId('ask-problem'), '');
	byId('ask-period').hidden = !question.period;
	byId('ask-yes').disabled = false;
	showQuestion();
	byId('ask').showModal();
	byId('ask-no').focus();
}

// showQuestion notes what is shown: that is what the action is about.
function showQuestion() {
	setText(byId('ask-text'), pending.text());
	pending.action = pending.make();
}

async function confirmed() {
	const question = pending;
	byId('ask-yes').disabled = true;
	setText(byId('ask-problem'), '');
	try {
		const acted = await question.send(question.action);
		if (pending !== question) return;
		if (acted.problem) {
			setText(byId('ask-problem'), 'It holds here, but could not be stored: ' + acted.problem);
		} else {
			byId('ask').close();
		}
	} catch (err) {
		await poll();
		if (question.again) await question.again().catch(() => {});
		if (pending !== question) return;
		showQuestion();
		setText(byId('ask-problem'), 'Nothing was done: ' + err.message + '. Look again.');
		byId('ask-yes').disabled = false;
	}
	poll();
}

async function send(method, what, action) {
	const response = await fetch(what, {
		method, body: JSON.stringify(action), cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(patience),
		headers: { 'Content-Type': 'application/json', 'X-Websocket-Dashboard': '1' },
	});
	if (!response.ok) throw new Error(await problemOf(response));
	return response.json();
}

byId('ask-no').addEventListener('click', () => byId('ask').close());
byId('ask-yes').addEventListener('click', confirmed);
byId('ask').addEventListener('close', () => { pending = null; });
byId('reload').addEventListener('click', () => location.reload());
byId('close-these').addEventListener('click', askCloseThese);
byId('pause').addEventListener('click', () => {
	paused = !paused;
	byId('pause').setAttribute('aria-pressed', String(paused));
	setText(byId('pause'), paused ? 'Paused; go on' : 'Pause');
	poll();
});
for (const id of ['recent', 'tunnels']) byId(id).addEventListener('toggle', poll);
for (const id of ['recent-filter', 'recent-kind', 'tunnels-search', 'tunnels-sort']) byId(id).addEventListener('input', poll);
document.addEventListener('visibilitychange', poll);
window.addEventListener('pageshow', (event) => { if (event.persisted) poll(); });
poll();
