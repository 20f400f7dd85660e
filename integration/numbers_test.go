package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// users is how many labels clients have.
const users = 5

// TestNumbersAgree has tunnels come and go in all ways, and compares what log, metrics,
// admin API, page and the clients themselves have counted, whenever all stand still. It
// takes a few tunnels and seconds, or 9,000 tunnels and as long as NUMBERS says, such as 10m.
func TestNumbersAgree(t *testing.T) {
	lasts, tunnels := 4*time.Second, 60
	if value := os.Getenv("NUMBERS"); value != "" {
		var err error
		if lasts, err = time.ParseDuration(value); err != nil || lasts <= 0 {
			t.Fatalf("NUMBERS is %q, want something like 10m", value)
		}
		tunnels = 9250 // clients, as some of them are about to come
	} else {
		t.Parallel()
	}
	n := startNumbers(t, lasts/4)
	stopped := n.watch(t)
	gone := n.public.come(t, tunnels)
	happenings := []func(round int){
		func(int) {},
		func(int) {
			n.caddy.done(t, "evict", n.chat[1].Addr, "--period", "1s")
			n.caddy.done(t, "ready", n.chat[1].Addr)
		},
		func(round int) { n.caddy.reload(t, n.config(round)) },
		func(int) { n.caddy.done(t, "close", "--label", "user=u3", "--code", "4003", "--reason", "banned") },
	}
	rounds := max(len(happenings), int(lasts/(30*time.Second)))
	for round := range rounds {
		time.Sleep(lasts / time.Duration(rounds)) // that is the load
		happenings[round%len(happenings)](round)
		n.standStill(t, fmt.Sprintf("after round %d", round))
	}
	n.public.leave()
	gone()
	n.compare(t, "at the end")
	n.expectNothingLeft(t)
	n.expectVariety(t)
	stopped()
}

// numbers are a process and those who count what it does.
type numbers struct {
	caddy  *caddy
	public *public
	ledger *ledger
	began  time.Time
	// firstEvent is the page's number for what was before the first event.
	firstEvent uint64

	chat                                     []*testbed.Upstream
	small, brief, closing, refusing, garbage *testbed.Upstream
	dead                                     string
}

func startNumbers(t *testing.T, stay time.Duration) *numbers {
	t.Helper()
	n := &numbers{ledger: newLedger(), began: time.Now(), dead: testbed.FreeAddr(t)}
	for range 3 {
		n.chat = append(n.chat, testbed.NewUpstream(t, obedient))
	}
	n.small, n.brief = testbed.NewUpstream(t, obedient), testbed.NewUpstream(t, obedient)
	n.closing = testbed.NewUpstream(t, testbed.CloseAfterHead)
	n.garbage = testbed.NewUpstream(t, testbed.Respond("no HTTP\r\n\r\n"))
	n.refusing = testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
	n.caddy = prepareCaddy(t)
	n.caddy.log.take = n.ledger.take
	n.caddy.run(t, n.config(0))
	n.firstEvent = n.lastEvent(t)
	n.public = &public{caddy: n.caddy, stay: min(stay, time.Minute)}
	n.public.leaving, n.public.leave = context.WithCancel(t.Context())
	t.Cleanup(n.public.leave)
	return n
}

// config is a configuration of which there are versions.
func (n *numbers) config(version int) string {
	route := func(path, addresses string, options ...string) string {
		return matched(path, proxyTo(addresses, options...)) + "\n"
	}
	return site(fmt.Sprintf("header X-Version %d\n", version)+"handle_path /status/* {\nwebsocket_dashboard\n}\n"+
		route("/chat", addressesOf(n.chat...), "name chat", "origins https://good.example", "label user {http.request.uri.query.user}")+
		route("/small", n.small.Addr, "name small", "max_tunnels 3", "queue 2 200ms")+
		route("/dead", n.dead+" "+addressesOf(n.closing, n.garbage), "name dead", "lb_policy round_robin")+
		route("/refusing", n.refusing.Addr)+
		route("/brief", n.brief.Addr, "name brief", "expires {http.request.uri.query.exp}"),
		streaming, `log default {
			exclude http.handlers.websocket_proxy
		}
		log tunnels {
			include http.handlers.websocket_proxy
			level DEBUG
		}`)
}

func addressesOf(all ...*testbed.Upstream) string {
	var list []string
	for _, up := range all {
		list = append(list, up.Addr)
	}
	return strings.Join(list, " ")
}

// standStill compares while no client does anything.
func (n *numbers) standStill(t *testing.T, when string) {
	t.Helper()
	n.public.gate.Lock()
	defer n.public.gate.Unlock()
	var streams []*streamClient
	for _, connect := range []connector{connectH2(true), connectH3} {
		s := openWebSocket(t, connect(t, n.caddy), webSocket("/chat?user=stream", [2]string{"origin", "https://good.example"}))
		s.echo(t, "by a stream")
		streams = append(streams, s)
	}
	n.public.count(len(streams))
	n.public.echoed.Add(int64(len(streams)))
	n.compare(t, when)
	for _, s := range streams {
		s.send(t, testbed.NewClose(1001, "navigated"))
		s.expect(t, testbed.NewClose(1001, "navigated"))
		s.expectEnd(t)
	}
	n.public.open.Add(-int64(len(streams)))
}

// compare waits until all say the same, and tells what does not.
func (n *numbers) compare(t *testing.T, when string) {
	t.Helper()
	began := time.Now()
	var differ []string
	for {
		differ = n.differences(t)
		if len(differ) == 0 {
			break
		}
		if time.Since(began) > timeout {
			t.Fatalf("%s there are differences:\n%s", when, strings.Join(differ, "\n"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	open, opened := n.public.open.Load(), n.public.opened.Load()
	t.Logf("%s all agree after %v: %d opened, %d open, %d refused, %d lines, the slowest handshake took %v", when,
		time.Since(began).Round(time.Millisecond), opened, open, n.public.refusals(), n.ledger.lines(),
		time.Duration(n.public.slowest.Swap(0)).Round(time.Millisecond))
}

func (p *public) refusals() (sum int64) {
	for i := range p.refused {
		sum += p.refused[i].Load()
	}
	return sum
}

// meteredTunnel is what is listed of one.
type meteredTunnel struct {
	listedTunnel

	BytesIn     float64 `json:"bytes_in"`
	BytesOut    float64 `json:"bytes_out"`
	MessagesIn  float64 `json:"messages_in"`
	MessagesOut float64 `json:"messages_out"`
}

// page is what the page asks for.
type page struct {
	Tunnels struct{ Open int }
	Rows    []struct {
		Handler, Upstream string
		Tunnels           int
	}
	Whys []struct {
		Kind, Why string
		Count     float64
	}
}

// exact are the metrics that come of lines and lists alone.
var exact = []string{
	"tunnels", "tunnels_opened_total", "upstream_tunnels_opened_total", "tunnels_closed_total", "upstream_tunnels_closed_total",
	"tunnel_close_codes_total", "tunnel_duration_seconds_count", "handshakes_refused_total", "handshake_duration_seconds_count",
	"handshake_retries_total", "messages_total", "bytes_total", "queue_wait_seconds_count", "handshakes_in_progress", "queue_length",
}

// differences compares once.
func (n *numbers) differences(t *testing.T) (all []string) {
	t.Helper()
	differ := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	same := func(what string, got, want float64) {
		if got != want {
			differ("%s: %v, want %v", what, got, want)
		}
	}
	want := n.ledger.copied()
	var list struct{ Tunnels []meteredTunnel }
	n.caddy.api(t, http.MethodGet, "tunnels?limit=100000", "", http.StatusOK, &list)
	listed := make(map[string]float64)
	perUpstream := make(map[string]int)
	for _, open := range list.Tunnels {
		pair := pairOf(open.Handler, open.Upstream)
		listed["tunnels{"+pair+"}"]++
		perUpstream[open.Upstream]++
		addTraffic(want, pair, open.MessagesIn, open.MessagesOut, open.BytesIn, open.BytesOut)
	}
	got := n.caddy.metrics(t)
	for name := range allKeys(got, want) {
		if family, _, _ := strings.Cut(name, "{"); slices.Contains(exact, family) {
			if _, there := got[name]; !there {
				differ("there is no metric %s", name)
			}
			same(name, got[name], want[name])
		}
		if strings.HasPrefix(name, "tunnels{") {
			same("listed: "+name, listed[name], want[name])
		}
	}
	same("clients: open", float64(n.public.open.Load()), sumOf(want, "tunnels"))
	same("clients: opened", float64(n.public.opened.Load()), sumOf(want, "tunnels_opened_total"))
	same("metrics: opened - closed", sumOf(got, "tunnels_opened_total")-sumOf(got, "tunnels_closed_total"), sumOf(got, "tunnels"))
	if echoed := float64(n.public.echoed.Load()); sumOf(got, "messages_total") < 2*echoed {
		differ("there are %v messages, though %v were echoed", sumOf(got, "messages_total"), echoed)
	}
	for status := range n.public.refused {
		name := fmt.Sprintf("refused with %d", status)
		same("clients: "+name, float64(n.public.refused[status].Load()), want[name])
	}
	for _, up := range n.caddy.listedUpstreams(t) {
		same("upstreams listed: "+up.Address, float64(up.Tunnels), float64(perUpstream[up.Address]))
	}
	failed := sumOf(want, "handshake_retries_total") + want["attempts failed"]
	same("attempts failed", sumOf(got, "upstream_handshakes_failed_total"), failed)
	same("attempts", sumOf(got, "upstream_handshake_duration_seconds_count"), failed+sumOf(want, "tunnels_opened_total"))
	n.comparePage(t, want, differ)
	return all
}

// comparePage compares what the page says with what is wanted of metrics.
func (n *numbers) comparePage(t *testing.T, want map[string]float64, differ func(string, ...any)) {
	t.Helper()
	var shown page
	_, text := n.caddy.get(t, "/status/summary")
	if err := json.Unmarshal([]byte(text), &shown); err != nil {
		t.Fatalf("the page's summary: %v in %s", err, text)
	}
	if open := sumOf(want, "tunnels"); float64(shown.Tunnels.Open) != open {
		differ("page: %d open, want %v", shown.Tunnels.Open, open)
	}
	rows := make(map[string]float64)
	for _, row := range shown.Rows {
		rows["tunnels{"+pairOf(row.Handler, row.Upstream)+"}"] += float64(row.Tunnels)
	}
	for name := range allKeys(rows, want) {
		if strings.HasPrefix(name, "tunnels{") && rows[name] != want[name] {
			differ("page: %s: %v, want %v", name, rows[name], want[name])
		}
	}
	if time.Since(n.began) < 4*time.Minute { // then it does not tell of all any more
		for _, why := range shown.Whys {
			if count := want[why.Kind+" "+why.Why]; why.Count != count {
				differ("page: %s %s: %v, want %v", why.Kind, why.Why, why.Count, count)
			}
		}
	}
	ended := sumOf(want, "tunnels_closed_total") + sumOf(want, "handshakes_refused_total")
	if told := n.lastEvent(t) - n.firstEvent; float64(told) != ended {
		differ("page: %v events, want %v", told, ended)
	}
}

// lastEvent is the number of the last event that the page has.
func (n *numbers) lastEvent(t *testing.T) uint64 {
	t.Helper()
	var recent struct{ Last uint64 }
	_, text := n.caddy.get(t, "/status/recent")
	if err := json.Unmarshal([]byte(text), &recent); err != nil {
		t.Fatalf("the page's events: %v in %s", err, text)
	}
	return recent.Last
}

// expectNothingLeft checks that what tells of now is zero, as all has ended.
func (n *numbers) expectNothingLeft(t *testing.T) {
	t.Helper()
	gauges := []string{"tunnels", "handshakes_in_progress", "queue_length", "buffered_bytes", "tunnels_stalled", "tunnels_silent"}
	eventually(t, "all gauges are zero", func() bool {
		got := n.caddy.metrics(t)
		for _, gauge := range gauges {
			for name, value := range got {
				if strings.HasPrefix(name, gauge+"{") && value != 0 {
					return false
				}
			}
		}
		return true
	})
	for _, up := range append(slices.Clone(n.chat), n.small, n.brief, n.closing, n.refusing, n.garbage) {
		up.WaitOpen(t, 0)
	}
}

// expectVariety checks that much has happened, as what has not happened proves nothing.
func (n *numbers) expectVariety(t *testing.T) {
	t.Helper()
	met := make(map[string]int)
	for name, count := range n.ledger.copied() {
		if !strings.ContainsAny(name, "{") {
			met[name] = int(count)
		}
	}
	t.Logf("met: %v", met)
	for _, name := range []string{
		"end client_closed", "end client_reset", "end upstream_closed", "end upstream_reset", "end evicted", "end killed", "end expired",
		"refusal origin", "refusal expired", "refusal no_expiry", "refusal upstream_refused", "attempts failed",
	} {
		if met[name] == 0 {
			t.Errorf("there was no %s", name)
		}
	}
}

// watch scrapes once a second: no count may ever go back, and no gauge be absurd.
func (n *numbers) watch(t *testing.T) (stop func()) {
	t.Helper()
	over := make(chan struct{})
	var took []time.Duration
	wait := testbed.Go(t, func(tb testing.TB) {
		var before map[string]float64
		for {
			select {
			case <-over:
				return
			case <-tb.Context().Done():
				return
			case <-time.After(time.Second):
			}
			began := time.Now()
			status, text, err := n.caddy.adminRequest(tb, http.MethodGet, "/metrics", "")
			if err != nil {
				continue // a reload replaces the endpoint
			}
			took = append(took, time.Since(began))
			if status != http.StatusOK {
				tb.Errorf("the scrape gives %d: %.200s", status, text)
				continue
			}
			now := parseMetrics(tb, text)
			for name, was := range before {
				family, _, _ := strings.Cut(name, "{")
				isCount := strings.HasSuffix(family, "_total") || strings.HasSuffix(family, "_count") || strings.HasSuffix(family, "_bucket")
				if is, there := now[name]; isCount && (!there || is < was) {
					tb.Errorf("%s was %v and is %v", name, was, is)
				}
			}
			if open := sumOf(now, "tunnels"); open < 0 || open > 1e5 {
				tb.Errorf("%v tunnels are open", open)
			}
			before = now
		}
	})
	return sync.OnceFunc(func() {
		close(over)
		wait()
		if len(took) > 0 {
			slices.Sort(took)
			t.Logf("%d scrapes took %v in the middle, %v at most", len(took), took[len(took)/2], took[len(took)-1])
		}
	})
}

// ledger has what the log's lines say, by the names of metrics.
type ledger struct {
	mu     sync.Mutex
	counts map[string]float64
}

func newLedger() *ledger { return &ledger{counts: make(map[string]float64)} }

func (l *ledger) copied() map[string]float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}

func (l *ledger) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.counts["lines"])
}

// take counts a line of ours, and reports whether it was one.
func (l *ledger) take(e entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	handler := fmt.Sprintf(`handler="%s"`, cmp.Or(e.str("handler"), "default"))
	pair := pairOf(e.str("handler"), e.str("upstream"))
	switch e.str("msg") {
	case "tunnel opened":
		l.counts["tunnels{"+pair+"}"]++
		l.counts["upstream_tunnels_opened_total{"+pair+"}"]++
		l.counts[fmt.Sprintf(`tunnels_opened_total{%s,protocol="%s"}`, handler, e.str("protocol"))]++
		l.handshaken(e, handler, "open", "served")
	case "tunnel closed":
		l.closed(e, handler, pair)
	case "handshake refused":
		l.refused(e, handler)
	default:
		return e.str("msg") == "trying another upstream"
	}
	l.counts["lines"]++
	return true
}

func (l *ledger) handshaken(e entry, handler, outcome, waited string) {
	l.counts[fmt.Sprintf(`handshake_duration_seconds_count{%s,outcome="%s"}`, handler, outcome)]++
	l.counts["handshake_retries_total{"+handler+"}"] += e.num("retries")
	if e.num("queue_time") > 0 {
		l.counts[fmt.Sprintf(`queue_wait_seconds_count{%s,outcome="%s"}`, handler, waited)]++
	}
}

func (l *ledger) closed(e entry, handler, pair string) {
	l.counts["tunnels{"+pair+"}"]--
	l.counts[fmt.Sprintf(`tunnels_closed_total{%s,reason="%s"}`, handler, e.str("reason"))]++
	l.counts["end "+e.str("reason")]++
	l.counts[fmt.Sprintf(`upstream_tunnels_closed_total{closed_by="%s",%s}`, e.str("closed_by"), pair)]++
	l.counts["tunnel_duration_seconds_count{"+handler+"}"]++
	code, from := "none", "none"
	if status := int(e.num("close_code")); status != 0 {
		code, from = fmt.Sprint(status), e.str("close_from")
		if status >= 3000 && status < 5000 {
			code = fmt.Sprintf("%dxxx", status/1000)
		}
		if from == "upstream" && status < 3000 {
			l.counts["end upstream_closed "+code]++ // the page only asks for errors
		}
	}
	l.counts[fmt.Sprintf(`tunnel_close_codes_total{code="%s",from="%s",%s}`, code, from, handler)]++
	addTraffic(l.counts, pair, e.num("messages_in"), e.num("messages_out"), e.num("bytes_in"), e.num("bytes_out"))
}

func (l *ledger) refused(e entry, handler string) {
	status, cause := int(e.num("status")), e.str("cause")
	l.counts[fmt.Sprintf("refused with %d", status)]++
	l.counts["refusal "+cause]++
	l.counts[fmt.Sprintf(`handshakes_refused_total{cause="%s",%s,status="%dxx"}`, cause, handler, status/100)]++
	switch cause {
	case "dial_failed", "closed", "bad_answer", "upstream_refused":
		l.counts["attempts failed"]++
	}
	outcome := "refused"
	if status >= http.StatusInternalServerError {
		outcome = "failed"
	}
	l.handshaken(e, handler, outcome, "gave_up")
}

// addTraffic adds what went through a tunnel.
func addTraffic(to map[string]float64, pair string, messagesIn, messagesOut, bytesIn, bytesOut float64) {
	to[`messages_total{direction="in",`+pair+`}`] += messagesIn
	to[`messages_total{direction="out",`+pair+`}`] += messagesOut
	to[`bytes_total{direction="in",`+pair+`}`] += bytesIn
	to[`bytes_total{direction="out",`+pair+`}`] += bytesOut
}

func pairOf(handler, upstream string) string {
	return fmt.Sprintf(`handler="%s",upstream="%s"`, cmp.Or(handler, "default"), upstream)
}

func allKeys(all ...map[string]float64) map[string]bool {
	keys := make(map[string]bool)
	for _, one := range all {
		for key := range one {
			keys[key] = true
		}
	}
	return keys
}

// sumOf adds up the series of a metric.
func sumOf(all map[string]float64, metric string) (sum float64) {
	for name, value := range all {
		if strings.HasPrefix(name, metric+"{") {
			sum += value
		}
	}
	return sum
}
