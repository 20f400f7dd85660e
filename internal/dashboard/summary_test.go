package dashboard

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func TestBannerSaysWhatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fake, *Board)
		level  string
		want   string // in the first problem
	}{
		"nothing":             {func(*fake, *Board) {}, "good", ""},
		"an upstream is down": {func(f *fake, _ *Board) { f.upstreams[0].Health = upstream.Down }, warn, "10.0.0.1:80 is down"},
		"one cannot be reached": {
			func(f *fake, _ *Board) { f.upstreams[1].Failing = true }, warn, "10.0.0.2:80 cannot be connected to",
		},
		"an operator drains one": {func(f *fake, _ *Board) { f.upstreams[0].State = upstream.Drain }, "good", ""},
		"no upstream is left": {func(f *fake, _ *Board) {
			f.upstreams[0].State, f.upstreams[1].Health = upstream.Drain, upstream.Down
		}, bad, "No upstream of chat takes tunnels"},
		"handshakes wait": {func(f *fake, _ *Board) {
			f.pools[0].Queued, f.pools[0].Members[0].Most, f.upstreams[1].Tunnels = 3, 5, 10
		}, warn, "3 handshakes wait for upstreams of chat, which are full"},
		"a handshake waits in a storm": {func(f *fake, _ *Board) {
			f.pools[0].Queued, f.upstreams[0].HandshakesLimit, f.upstreams[0].Handshakes = 1, 8, 8
		}, warn, "1 handshake waits for upstreams of chat, which have as many handshakes as they may have at a time"},
		"one is doubtful": {
			func(f *fake, _ *Board) { f.upstreams[1].Doubtful = true }, warn, "10.0.0.2:80 is doubtful",
		},
		"handshakes fail":           {func(_ *fake, b *Board) { b.refused("dial_failed", 9) }, bad, "9 of 9 handshakes failed"},
		"clients have wrong pages":  {func(_ *fake, b *Board) { b.refused("origin", 99) }, "good", ""},
		"an upstream cuts tunnels":  {func(_ *fake, b *Board) { b.ended(tunnel.UpstreamReset, 7) }, warn, "7 tunnels were cut"},
		"clients leave":             {func(_ *fake, b *Board) { b.ended(tunnel.ClientClosed, 700) }, "good", ""},
		"a few handshakes may fail": {func(_ *fake, b *Board) { b.refused("dial_failed", 2) }, "good", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(5)
			b := inUse(t, f)
			b.at(noon)
			tc.change(f, b)
			b.at(noon.Add(time.Minute))
			s := b.summary(noon.Add(62 * time.Second))
			if s.Level != tc.level {
				t.Errorf("the level is %s, want %s: %+v", s.Level, tc.level, s.Problems)
			}
			if tc.want == "" {
				return
			}
			if len(s.Problems) == 0 || !strings.Contains(s.Problems[0].Words, tc.want) {
				t.Fatalf("the problems are %+v, want %q first", s.Problems, tc.want)
			}
			if got, want := s.Problems[0].Since, noon.Add(time.Minute); !got.Equal(want) {
				t.Errorf("it is so since %v, want %v", got, want)
			}
		})
	}
}

func TestStormIsMoreHandshakesThanUsual(t *testing.T) {
	b := inUse(t, one(0))
	now := noon
	for range 60 { // of ten minutes
		b.ended(tunnel.ClientClosed, 1)
		b.at(now)
		now = now.Add(sampleInterval)
	}
	if s := b.summary(now); s.Level != "good" {
		t.Errorf("on an ordinary day the problems are %+v", s.Problems)
	}
	b.ended(tunnel.ClientClosed, 500)
	b.at(now)
	if s := b.summary(now); s.Level != warn || !strings.Contains(s.Problems[0].Words, "Clients come back in numbers") {
		t.Errorf("in a storm the problems are %+v", s.Problems)
	}
}

func TestSummaryComparesWithFifteenMinutesAgo(t *testing.T) {
	b := inUse(t, one(0))
	for range 100 {
		b.backend.(*fake).opened()
	}
	now := noon
	for range historyLength + 20 {
		b.at(now)
		now = now.Add(sampleInterval)
	}
	b.refused("origin", 30)
	for range 30 {
		b.left(tunnel.UpstreamReset)
	}
	got := b.summary(now).Tunnels
	if got.Open != 70 || got.Before != 100 || got.BeforeAge != 900 {
		t.Errorf("%d are open, and %d were %d s ago; want 70, 100 and 900", got.Open, got.Before, got.BeforeAge)
	}
	if got.Closed != 2 || got.Refused != 2 || got.Opened != 0 {
		t.Errorf("%v closed, %v refused and %v opened a second, want 2, 2 and 0", got.Closed, got.Refused, got.Opened)
	}
	if len(got.Series) != seriesLength || got.Series[0] != 100 {
		t.Errorf("the series is %v, want %d times 100", got.Series, seriesLength)
	}
}

func TestWhysAreTheThreeMostFrequent(t *testing.T) {
	b := inUse(t, one(0))
	b.refused("origin", 50) // before the page was there
	b.at(noon)
	b.refused("queue_full", 7)
	b.refused("origin", 3)
	b.ended(tunnel.Evicted, 5)
	b.ended(tunnel.ClientClosed, 90) // nobody asks why
	b.ended(tunnel.IdleTimeout, 1)
	whys := b.summary(noon.Add(time.Minute)).Whys
	var got []string
	for _, w := range whys {
		got = append(got, fmt.Sprintf("%d %s %s", w.Count, w.Kind, w.Why))
		if w.Words == "" || w.Words == w.Why {
			t.Errorf("%s has no words", w.Why)
		}
	}
	if want := "7 refusal queue_full, 5 end evicted, 3 refusal origin"; strings.Join(got, ", ") != want {
		t.Errorf("the whys are %v, want %s", got, want)
	}
	if whys[0].Do == "" {
		t.Error("nothing says what to do when the queue is full")
	}
}

func TestWhysHaveTheErrorsThatUpstreamsCloseWith(t *testing.T) {
	f := one(0)
	b := inUse(t, f)
	b.at(noon)
	for code, times := range map[string]int{"1000": 50, "1001": 40, "4xxx": 30, "1011": 9, "1012": 3} {
		for range times {
			f.opened()
			f.closed(code)
		}
	}
	var got []string
	for _, w := range b.summary(noon.Add(time.Minute)).Whys {
		got = append(got, fmt.Sprintf("%d %s: %s", w.Count, w.Why, w.Words))
	}
	want := "9 upstream_closed 1011: the upstream closed: an error of its own, 3 upstream_closed 1012: the upstream closed: it restarts"
	if strings.Join(got, ", ") != want {
		t.Errorf("the whys are %q, want %s", got, want)
	}
	b.TunnelEnded(&tunnel.Outcome{Reason: tunnel.UpstreamClosed, CloseCode: 1011})
	b.TunnelEnded(&tunnel.Outcome{Reason: tunnel.UpstreamClosed, CloseCode: 1000})
	b.TunnelEnded(&tunnel.Outcome{Reason: tunnel.ClientClosed, CloseCode: 1011})
	events, _ := b.Events(0)
	for i, want := range []string{"the upstream closed: an error of its own", "the upstream closed", "the client closed"} {
		if events[i].Words != want {
			t.Errorf("the event is %q, want %q", events[i].Words, want)
		}
	}
}

func TestOnlyAnEvictionTellsWhenItIsOver(t *testing.T) {
	for _, state := range []string{upstream.Evict, upstream.Drain, upstream.Maint} {
		t.Run(state, func(t *testing.T) {
			f := one(0)
			b := inUse(t, f)
			u := &f.upstreams[0]
			u.State, u.By, u.Since, u.Tunnels = state, "alice", noon, 100
			f.tunnels = append(f.tunnels, &fakeTunnel{Tunnel: admin.Tunnel{Upstream: u.Address, Opened: noon.Add(-time.Hour)}})
			b.take(nil) // at least that the oldest one is found
			b.history = newHistory()
			now := noon
			for u.Tunnels > 40 {
				b.at(now)
				now = now.Add(sampleInterval)
				u.Tunnels -= 10
			}
			b.at(now)
			g := b.summary(now).Going[0]
			if g.Tunnels != 40 || g.First != 100 || g.By != "alice" || g.Rate != 2 {
				t.Errorf("it is %+v, want 40 of 100 left, 2 a second, by alice", g)
			}
			if want := noon.Add(25 * time.Second); !g.Half.Equal(want) {
				t.Errorf("half were gone at %v, want %v", g.Half, want)
			}
			want := now.Add(20 * time.Second)
			if state != upstream.Evict {
				want = time.Time{}
			}
			if !g.Empty.Equal(want) {
				t.Errorf("it is empty at %v, want %v", g.Empty, want)
			}
			if oldest := b.oldestOf(f.Upstreams())[u.Address]; !oldest.Equal(noon.Add(-time.Hour)) {
				t.Errorf("the oldest tunnel was opened at %v", oldest)
			}
		})
	}
}

func TestOneLookFindsTheOldestTunnelsOfAllUpstreams(t *testing.T) {
	f := one(0)
	for i := range f.upstreams {
		f.upstreams[i].State, f.upstreams[i].Tunnels = upstream.Drain, 2
		f.open(admin.Tunnel{Upstream: f.upstreams[i].Address, Age: 60})
		f.open(admin.Tunnel{Upstream: f.upstreams[i].Address, Age: float64(3600 * (i + 1))})
	}
	f.open(admin.Tunnel{Upstream: "10.0.0.3:80", Age: 1e6}) // which stays
	b := inUse(t, f)
	got := b.oldestOf(f.Upstreams())
	want := map[string]time.Time{"10.0.0.1:80": noon.Add(-time.Hour), "10.0.0.2:80": noon.Add(-2 * time.Hour)}
	if !maps.Equal(got, want) || f.looks != 1 {
		t.Errorf("they were opened at %v, by %d looks at all tunnels; want %v, by one", got, f.looks, want)
	}
	f.upstreams[0].State, f.upstreams[1].Tunnels = upstream.Ready, 0
	if got := b.oldestOf(f.Upstreams()); len(got) != 0 || f.looks != 1 {
		t.Errorf("without anything to find, %d looks have found %v", f.looks, got)
	}
}

func TestSummaryOfALargeFleetIsSmall(t *testing.T) {
	f := new(fake)
	f.pools = []Pool{{Handler: strings.Repeat("h", 40)}}
	for i := range 400 {
		address := fmt.Sprintf("upstream-%d.some.long.domain.example.com:8080", i)
		f.upstreams = append(f.upstreams, admin.Upstream{
			Address: address, State: upstream.Evict, Tunnels: 10000, By: "somebody@example.com", Since: noon, Health: upstream.Down,
			Handshakes: 100, HandshakesLimit: 100, Load: 0.75, Agent: "down 25% maxconn:10000",
			HealthError: "dial tcp 10.20.30.40:8080: connect: connection refused", Expires: noon.Add(time.Hour),
		})
		f.pools[0].Members = append(f.pools[0].Members, Member{address, 10, 10000})
	}
	b := inUse(t, f)
	for i := range 2 * historyLength {
		b.ended(tunnel.UpstreamReset, 500)
		b.refused("dial_failed", 1)
		b.at(noon.Add(time.Duration(i) * sampleInterval))
	}
	s := b.summary(noon.Add(2 * historyLength * sampleInterval))
	text, err := printable.JSON(s)
	if err != nil || len(text) >= 20_000 {
		t.Errorf("the summary has %d bytes, %v, want less than 20,000", len(text), err)
	}
	if s.More != 400-len(s.Rows) {
		t.Errorf("%d rows, and %d more of 400", len(s.Rows), s.More)
	}
	if len(b.history.full)+len(b.history.minute) > fullLength+minutes || len(b.history.totals) != historyLength {
		t.Error("the history grows")
	}
}

func TestSummaryDoesNotChangeByItself(t *testing.T) {
	f := one(3)
	f.upstreams[0].Health = upstream.Down
	b := inUse(t, f)
	now := noon
	for range historyLength + minutes*20 {
		b.at(now)
		now = now.Add(sampleInterval)
	}
	first, _ := json.Marshal(b.summary(now))
	b.at(now.Add(sampleInterval))
	second, _ := json.Marshal(b.summary(now.Add(sampleInterval + 2*time.Second)))
	if string(first) != string(second) {
		t.Errorf("nothing has happened, but the summary was\n%s, and is\n%s", first, second)
	}
}

func TestEvictionEndsWithItsPeriod(t *testing.T) {
	f := one(0)
	b := inUse(t, f)
	u := &f.upstreams[0]
	u.State, u.By, u.Since, u.Tunnels, u.Period = upstream.Evict, "alice", noon, 100, 600
	b.at(noon)
	u.Tunnels = 10 // most of which has gone by itself
	now := noon.Add(time.Minute)
	b.at(now)
	if got, want := b.summary(now).Going[0].Empty, noon.Add(10*time.Minute); !got.Equal(want) {
		t.Errorf("it is empty at %v, want %v", got, want)
	}
	// Clients that take their time do not leave it in the past.
	now = noon.Add(11 * time.Minute)
	if got := b.summary(now).Going[0].Empty; !got.After(now) {
		t.Errorf("it is empty at %v, want some time after %v", got, now)
	}
}

func TestSlowUpstreamIsSeenBesideAFastOne(t *testing.T) {
	for name, test := range map[string]struct {
		slow, fast uint64 // handshakes
		want       bool
	}{
		"beside a fast one": {10, 10, true},
		"alone":             {10, 0, false},
		"after too few":     {4, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(0)
			b := inUse(t, f)
			b.at(noon)
			f.counts.n.Took = map[string]Histogram{
				"10.0.0.1:80": {bounds, []uint64{0, 0, test.slow, 0}},
				"10.0.0.2:80": {bounds, []uint64{test.fast, 0, 0, 0}},
			}
			s := b.summary(noon.Add(time.Minute))
			told := slices.ContainsFunc(s.Problems, func(p Problem) bool { return strings.HasPrefix(p.Words, "10.0.0.1:80 answers handshakes slowly") })
			if told != test.want || s.Rows[0].Slow != test.want || s.Rows[1].Slow {
				t.Errorf("the problems are %+v, the rows %+v; want it to be slow: %t", s.Problems, s.Rows, test.want)
			}
			if test.want && s.Rows[0].Upstream != "10.0.0.1:80" {
				t.Errorf("%s comes first", s.Rows[0].Upstream)
			}
		})
	}
}
