package metrics

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// world is metrics with a clock that stands still.
type world struct {
	*Metrics

	tb       testing.TB
	mu       sync.Mutex
	now      time.Time
	overflow int
	lost     uint64 // events
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, now: time.Unix(1_700_000_000, 0)}
	w.Metrics = New(Words{
		Causes:   map[string][]string{"origin": {"4xx"}, "client_gone": {"499"}, "dial_failed": {"5xx"}},
		Attempts: []string{"dial_failed"},
	}, func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}, func() uint64 { return w.lost }, func() { w.overflow++ })
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// scrape returns the values of all series, by name and labels. Histograms have their
// counts.
func (w *world) scrape() map[string]float64 {
	w.tb.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := w.Register(r); err != nil {
		w.tb.Fatalf("registering: %v", err)
	}
	families, err := r.Gather()
	if err != nil {
		w.tb.Fatalf("the scrape fails: %v", err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			all[nameOf(f.GetName(), m.Label)] = valueOf(m)
		}
	}
	return all
}

func nameOf(name string, labels []*dto.LabelPair) string {
	values := []string{strings.TrimPrefix(name, "caddy_websocket_proxy_")}
	for _, l := range labels {
		values = append(values, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(values, " ")
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	case m.Counter != nil:
		return m.Counter.GetValue()
	}
	return m.Gauge.GetValue()
}

// expect checks the values of some series. A negative one means that there is none.
func (w *world) expect(want map[string]float64) {
	w.tb.Helper()
	got := w.scrape()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		value, there := got[name]
		if !there {
			value = -1
		}
		if value != want[name] {
			w.tb.Errorf("%s is %v, want %v", name, value, want[name])
		}
	}
}

// standing makes what Start takes of upstreams that are usable.
func standing(upstreams ...string) func() []Standing {
	return func() (all []Standing) {
		for _, u := range upstreams {
			all = append(all, Standing{Upstream: u, State: "ready"})
		}
		return all
	}
}

var quick = Course{Protocol: "h1", Took: 7 * time.Millisecond}

func TestHandlersAreThereWithZeroFromWhenTheyAreInForce(t *testing.T) {
	w := newWorld(t)
	if got := w.scrape(); len(got) != 3 { // build_info, and two counts of the process
		t.Errorf("before any configuration there are %v", got)
	}
	c := w.Start("", 5, standing("a:1"))
	defer c.Stop()
	w.expect(map[string]float64{
		"tunnels handler=default upstream=a:1":                                            0,
		"tunnels_opened_total handler=default protocol=h3":                                0,
		"tunnels_closed_total handler=default reason=rebalanced":                          0,
		"tunnel_close_codes_total code=none from=none handler=default":                    0,
		"tunnel_close_codes_total code=1001 from=proxy handler=default":                   0,
		"tunnel_close_codes_total code=1006 from=client handler=default":                  -1,
		"handshakes_refused_total cause=origin handler=default status=4xx":                0,
		"handshakes_refused_total cause=origin handler=default status=5xx":                -1,
		"upstream_handshakes_failed_total cause=dial_failed handler=default upstream=a:1": 0,
		"upstream_tunnels_closed_total closed_by=proxy handler=default upstream=a:1":      0,
		"upstreams handler=default status=usable":                                         1,
		"upstreams handler=default status=maint":                                          0,
		"queue_limit handler=default":                                                     5,
		"upstream_state state=ready upstream=a:1":                                         1,
		"upstream_state state=evict upstream=a:1":                                         0,
		"upstream_state_set_timestamp_seconds state=ready upstream=a:1":                   -1,
		"upstream_up upstream=a:1":                                                        -1,
		"upstream_tunnels_limit handler=default upstream=a:1":                             -1,
		"cluster_last_sync_success_timestamp_seconds":                                     -1,
	})
}

func TestWhatHappensIsCounted(t *testing.T) {
	w := newWorld(t)
	defer w.Start("chat", 0, standing("a:1", "b:1")).Stop()
	h := w.Handler("chat")
	h.Refused("origin", 403, quick)
	h.Refused("client_gone", 499, Course{Took: time.Second, Queued: time.Second, GaveUp: true})
	h.Refused("origin", 302, quick)
	h.Attempted("a:1", 3*time.Second, "dial_failed")
	h.Attempted("b:1", time.Millisecond, "")
	h.Attempted("b:1", time.Millisecond, "client_gone")
	h.GivenUp("b:1")
	p := h.Opened("b:1", Course{Protocol: "h2", Took: time.Second, Queued: time.Millisecond, Retries: 1})
	other := h.Opened("a:1", quick)
	p.Pinged(tunnel.Client)
	p.Ponged(tunnel.Client, 40*time.Millisecond)
	p.PingTimedOut(tunnel.Upstream)
	p.Moved(tunnel.Movement{Active: w.now.Unix(), Traffic: tunnel.Traffic{BytesIn: 10, BytesOut: 20, MessagesIn: 1, MessagesOut: 2}})
	p.Moved(tunnel.Movement{WasActive: w.now.Unix(), Active: w.now.Unix(), Buffered: [2]int{5, 0}, Stalled: [2]int{1, 0}})
	other.Closed(tunnel.Outcome{Reason: tunnel.Evicted, ClosedBy: tunnel.Proxy, CloseCode: 1001, CloseFrom: tunnel.Proxy}, 2*time.Minute)
	w.Synced(errors.New("away"))
	w.Synced(nil)
	w.lost++
	w.Checked("a:1", "http", false)
	w.Checked("a:1", Agent, true)
	w.Checked("a:1", Agent, true)
	w.expect(map[string]float64{
		"upstream_handshakes_abandoned_total handler=chat upstream=a:1":                0,
		"upstream_handshakes_abandoned_total handler=chat upstream=b:1":                2,
		"handshakes_refused_total cause=origin handler=chat status=4xx":                1,
		"handshakes_refused_total cause=origin handler=chat status=3xx":                1,
		"handshakes_refused_total cause=client_gone handler=chat status=499":           1,
		"handshake_duration_seconds handler=chat outcome=refused":                      3,
		"handshake_duration_seconds handler=chat outcome=failed":                       0,
		"handshake_duration_seconds handler=chat outcome=open":                         2,
		"queue_wait_seconds handler=chat outcome=gave_up":                              1,
		"queue_wait_seconds handler=chat outcome=served":                               1,
		"upstream_handshakes_failed_total cause=dial_failed handler=chat upstream=a:1": 1,
		"upstream_handshake_duration_seconds upstream=b:1":                             2,
		"handshake_retries_total handler=chat":                                         1,
		"tunnels_opened_total handler=chat protocol=h2":                                1,
		"tunnels handler=chat upstream=b:1":                                            1,
		"tunnels handler=chat upstream=a:1":                                            0,
		"tunnels_closed_total handler=chat reason=evicted":                             1,
		"upstream_tunnels_closed_total closed_by=proxy handler=chat upstream=a:1":      1,
		"tunnel_close_codes_total code=1001 from=proxy handler=chat":                   1,
		"tunnel_duration_seconds handler=chat":                                         1,
		"pings_total handler=chat peer=client":                                         1,
		"ping_rtt_seconds handler=chat peer=client":                                    1,
		"ping_timeouts_total handler=chat peer=upstream":                               1,
		"bytes_total direction=in handler=chat upstream=b:1":                           10,
		"messages_total direction=out handler=chat upstream=b:1":                       2,
		"buffered_bytes handler=chat peer=upstream":                                    5,
		"tunnels_stalled handler=chat peer=upstream":                                   1,
		"tunnels_stalled handler=chat peer=client":                                     0,
		"cluster_sync_errors_total":                                                    1,
		"cluster_last_sync_success_timestamp_seconds":                                  float64(w.now.Unix()),
		"events_dropped_total":                                                         1,
		"upstream_checks_total kind=http result=failed upstream=a:1":                   1,
		"upstream_checks_total kind=http result=passed upstream=a:1":                   0,
		"upstream_checks_total kind=agent result=passed upstream=a:1":                  2,
		"upstream_checks_total kind=agent result=failed upstream=a:1":                  0,
		"upstream_checks_total kind=tcp result=passed upstream=a:1":                    -1,
	})
	if s := w.Snapshot(); !s.LastSync.Equal(w.now) || s.SyncsFailed != 1 {
		t.Errorf("the storage has answered at %v, and not %d times; want %v and one", s.LastSync, s.SyncsFailed, w.now)
	}
	for _, s := range w.Snapshot().Pairs {
		if s.Upstream == "b:1" && (s.Open != 1 || s.BytesOut != 20) || s.Upstream == "a:1" && s.ClosedBy["proxy"] != 1 {
			t.Errorf("the snapshot has %+v", s)
		}
	}
}

func TestSnapshotHasTheStatusesThatUpstreamsCloseWith(t *testing.T) {
	w := newWorld(t)
	defer w.Start("chat", 0, standing("a:1")).Stop()
	for _, from := range []tunnel.Peer{tunnel.Upstream, tunnel.Client} {
		w.Handler("chat").Opened("a:1", quick).Closed(tunnel.Outcome{CloseCode: 1011, CloseFrom: from}, time.Second)
	}
	got := w.Snapshot().Handlers[0].UpstreamCodes
	if len(got) != 1 || got["1011"] != 1 {
		t.Errorf("upstreams have closed with %v, want 1011 once", got)
	}
}

func TestHistogramsHaveTheirBuckets(t *testing.T) {
	h := newHistogram(handshakeBounds)
	for _, d := range []time.Duration{5 * time.Millisecond, 6 * time.Millisecond, time.Hour} {
		h.observe(d)
	}
	var m dto.Metric
	if err := histogramOf(descAttempt, h, "a:1").Write(&m); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range m.Histogram.Bucket[:3] {
		got = append(got, fmt.Sprint(b.GetUpperBound(), b.GetCumulativeCount()))
	}
	if want := []string{"0.005 1", "0.01 2", "0.025 2"}; !slices.Equal(got, want) {
		t.Errorf("the first buckets are %v, want %v", got, want)
	}
	if m.Histogram.GetSampleCount() != 3 || m.Histogram.GetSampleSum() != 3600.011 || m.Histogram.Schema != nil {
		t.Errorf("count %d, sum %v, schema %v", m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum(), m.Histogram.Schema)
	}
}

// TestUpstreamsGo has an upstream lose its configuration and its last tunnel.
func TestUpstreamsGo(t *testing.T) {
	const opened, state = "upstream_tunnels_opened_total handler=chat upstream=a:1", "upstream_state state=ready upstream=a:1"
	w := newWorld(t)
	c := w.Start("chat", 0, standing("a:1"))
	p := w.Handler("chat").Opened("a:1", quick)
	c.Stop()
	w.pass(time.Hour)
	w.expect(map[string]float64{
		opened: 1, state: 1, "upstreams handler=chat status=removed": 1, "upstreams handler=chat status=usable": 0,
	})
	p.Closed(tunnel.Outcome{Reason: tunnel.Evicted, ClosedBy: tunnel.Proxy}, time.Hour)
	w.expect(map[string]float64{"upstreams handler=chat status=removed": 0})
	w.pass(keptFor - time.Second)
	w.expect(map[string]float64{opened: 1, state: 1})
	w.pass(time.Second)
	w.expect(map[string]float64{
		opened: -1, state: -1, "tunnels_closed_total handler=chat reason=evicted": 1, // which is the handler's, and stays
	})
	w.Handler("chat").Opened("a:1", quick).Closed(tunnel.Outcome{ClosedBy: tunnel.Client}, 0)
	w.expect(map[string]float64{opened: 1, "upstream_tunnels_closed_total closed_by=proxy handler=chat upstream=a:1": 0})
	w.pass(keptFor)
	w.Handler("chat").Attempted("b:1", 0, "")
	if w.pairCount != 1 {
		t.Errorf("%d pairs are remembered, want 1", w.pairCount)
	}
}

// TestReloadsKeepCounts has the old configuration go when the new one is there, and then
// one without the handler.
func TestReloadsKeepCounts(t *testing.T) {
	const opened = "upstream_tunnels_opened_total handler=default upstream=a:1"
	w := newWorld(t)
	before := w.Start("", 10, standing("a:1", "b:1"))
	w.Handler("").Opened("a:1", quick)
	after := w.Start("", 20, standing("a:1"))
	w.expect(map[string]float64{opened: 1, "upstreams handler=default status=usable": 2})
	before.Stop()
	w.expect(map[string]float64{opened: 1, "upstreams handler=default status=usable": 1, "queue_limit handler=default": 20})
	after.Stop()
	w.expect(map[string]float64{opened: 1, "upstreams handler=default status=usable": 0, "queue_limit handler=default": 0})
}

func TestTheLastStatusCounts(t *testing.T) {
	w := newWorld(t)
	since := w.now.Add(-time.Minute)
	one := func(s Standing) func() []Standing {
		s.Upstream = "a:1"
		return func() []Standing { return []Standing{s} }
	}
	defer w.Start("", 0, one(Standing{Status: Full, Checked: true, Up: true, State: "ready", Limit: 7})).Stop()
	defer w.Start("", 0, one(Standing{Status: Down, Checked: true, State: "ready"})).Stop()
	defer w.Start("x", 0, one(Standing{Status: Drain, State: "drain", Since: since})).Stop()
	defer w.Start("y", 0, func() []Standing {
		return []Standing{
			{Upstream: "b:1", Status: Maint, State: "maint"},
			{Upstream: "b:1", Status: Drain, State: "maint"},
			{Upstream: "c:1", Status: Drain, Reweighed: true, Weight: 0},
			{Upstream: "d:1", Weight: 1},
		}
	}).Stop()
	w.expect(map[string]float64{
		"upstreams handler=y status=maint":                              1,
		"upstreams handler=y status=drain":                              1,
		"upstream_weight handler=y upstream=c:1":                        0,
		"upstream_weight handler=y upstream=d:1":                        -1,
		"upstream_state state=maint upstream=b:1":                       1,
		"upstreams handler=default status=full":                         0,
		"upstreams handler=default status=down":                         1,
		"upstreams handler=x status=drain":                              1,
		"upstream_up upstream=a:1":                                      0,
		"upstream_tunnels_limit handler=default upstream=a:1":           7,
		"upstream_state state=drain upstream=a:1":                       1,
		"upstream_state_set_timestamp_seconds state=drain upstream=a:1": float64(since.Unix()),
	})
}

func TestHostileNamesScrape(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("é", 200)
	names := []string{"", "default", "\xff\xfe", "\xff\xfd", "a\x00b\n\"\\{}", long + "1", long + "2", "_other", "\u202e\x1b[2J"}
	for _, handler := range names {
		for _, upstream := range names {
			w.Handler(handler).Opened(upstream, quick).Closed(tunnel.Outcome{CloseCode: 9, CloseFrom: tunnel.Client}, 0)
			w.Handler(handler).Attempted(upstream, 0, "\xff")
		}
		w.Handler(handler).Refused("\xff", 100, quick)
	}
	w.expect(map[string]float64{
		"tunnels_opened_total handler=default protocol=h1":                     2 * float64(len(names)),
		"tunnel_close_codes_total code=invalid from=client handler=default":    2 * float64(len(names)),
		"upstream_tunnels_opened_total handler=default upstream=" + long[:128]: 4,
	})
}

func TestLabelsAreCutBetweenCharacters(t *testing.T) {
	for _, s := range []string{"", "a", strings.Repeat("x", 128), strings.Repeat("x", 127) + "é", strings.Repeat("€", 99), "\xff"} {
		got := Label(s)
		if !utf8.ValidString(got) || len(got) > 128 || !strings.HasPrefix(strings.ToValidUTF8(s, "\uFFFD"), got) {
			t.Errorf("%q becomes %q", s, got)
		}
	}
}

func TestTooManyUpstreamsAreOthers(t *testing.T) {
	w := newWorld(t)
	for i := range maxPairs + 5 {
		w.Handler("a").Opened(fmt.Sprintf("10.0.0.%d:1", i), quick)
	}
	w.Handler("b").Attempted("10.0.0.1:1", 0, "dial_failed")
	w.expect(map[string]float64{
		"tunnels handler=a upstream=_other":                                            5,
		"upstream_handshakes_failed_total cause=dial_failed handler=b upstream=_other": 1,
		"tunnels handler=a upstream=10.0.0.3:1":                                        1,
	})
	if w.overflow != 1 {
		t.Errorf("it is told %d times, want once", w.overflow)
	}
}

func TestSilenceGoesByWhenSomethingHappened(t *testing.T) {
	var s silence
	start := time.Unix(1_700_000_000, 0)
	at := func(after time.Duration) int64 { return start.Add(after).Unix() }
	expect := func(after time.Duration, want ...int64) {
		t.Helper()
		var got []int64
		for _, over := range silentOver {
			got = append(got, s.over(start.Add(after), over.time))
		}
		if !slices.Equal(got, want) {
			t.Errorf("after %v silent are %v, want %v", after, got, want)
		}
	}
	s.move(0, at(0))
	s.move(0, at(0))
	expect(time.Second, 0, 0, 0)
	expect(2*time.Minute, 2, 0, 0)
	s.move(at(0), at(2*time.Minute))
	expect(2*time.Minute, 1, 0, 0)
	expect(11*time.Minute, 2, 1, 0)
	expect(61*time.Minute, 2, 2, 1)
	s.move(0, at(100*time.Hour)) // others' slots are used again
	expect(100*time.Hour, 2, 2, 2)
	s.move(at(0), 0)
	s.move(at(2*time.Minute), 0)
	expect(100*time.Hour, 0, 0, 0)
	s.move(at(100*time.Hour), 0)
	expect(200*time.Hour, 0, 0, 0)
}

// TestScrapesMeetEverything scrapes while all changes at once. At the end, all gauges are
// zero, and as many tunnels have ended as were opened.
func TestScrapesMeetEverything(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				name := fmt.Sprint("h", j%3)
				c := w.Start(name, 1, standing("a:1", fmt.Sprint(i, ":1")))
				h := w.Handler(name)
				h.InProgress.Add(1)
				h.InProgress.Add(-1)
				p := h.Opened(fmt.Sprint(j%50, ":1"), quick)
				now := w.clock().Unix()
				p.Moved(tunnel.Movement{Active: now, Buffered: [2]int{1, 1}, Stalled: [2]int{1, 0}})
				w.pass(10 * time.Second)
				c.Stop()
				p.Moved(tunnel.Movement{WasActive: now, Buffered: [2]int{-1, -1}, Stalled: [2]int{-1, 0}})
				p.Closed(tunnel.Outcome{Reason: tunnel.Killed, ClosedBy: tunnel.Proxy}, 0)
			}
		})
	}
	all.Go(func() {
		for range 100 {
			for name, value := range w.scrape() {
				if strings.HasPrefix(name, "tunnels ") && (value < 0 || value > 8) {
					t.Errorf("%s is %v", name, value)
				}
			}
			w.Snapshot()
		}
	})
	all.Wait()
	opened, closed := 0.0, 0.0
	for name, value := range w.scrape() {
		switch family, _, _ := strings.Cut(name, " "); family {
		case "tunnels_opened_total":
			opened += value
		case "tunnels_closed_total":
			closed += value
		case "tunnels", "handshakes_in_progress", "queue_length", "queue_limit", "upstreams", "buffered_bytes", "tunnels_stalled", "tunnels_silent":
			if value != 0 {
				t.Errorf("%s is %v at the end", name, value)
			}
		}
	}
	if opened != 1600 || closed != 1600 {
		t.Errorf("%v opened, %v closed, want 1600", opened, closed)
	}
	if len(w.configs) != 0 || w.refresher.stop != nil {
		t.Errorf("%d configurations are left, and somebody looks at them: %t", len(w.configs), w.refresher.stop != nil)
	}
	for key, u := range w.upstreams.all {
		if u.users != 0 {
			t.Errorf("%d use %s", u.users, key)
		}
	}
}
