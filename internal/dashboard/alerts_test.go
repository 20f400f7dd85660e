package dashboard

import (
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestBannerSaysWhatAlertsSay(t *testing.T) {
	now := noon.Add(time.Hour)
	for name, tc := range map[string]struct {
		change func(*fake)
		level  string
		words  string
		since  time.Time
	}{
		"descriptors": {func(f *fake) { f.files = descriptors{799, 1000} }, "good", "", time.Time{}},
		"most descriptors": {
			func(f *fake) { f.files = descriptors{800, 1000} }, bad, "80 % of the 1000 file descriptors", now,
		},
		"no limit": {func(f *fake) { f.files = descriptors{1 << 30, ^uint64(0)} }, "good", "", time.Time{}},
		"storage": {
			func(f *fake) { f.n.LastSync, f.n.SyncsFailed = now.Add(-time.Minute), 20 }, "good", "", time.Time{},
		},
		"storage away": {
			func(f *fake) { f.n.LastSync = now.Add(-61 * time.Second) }, warn, "is out of reach", now.Add(-61 * time.Second),
		},
		"storage has failed twice": {func(f *fake) { f.n.SyncsFailed = 2 }, "good", "", time.Time{}},
		"storage never there":      {func(f *fake) { f.n.SyncsFailed = 3 }, warn, "has never been reached", now},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(5)
			tc.change(f)
			b := inUse(t, f)
			b.at(now)
			s := b.summary(now)
			if s.Level != tc.level {
				t.Fatalf("the level is %s, want %s: %+v", s.Level, tc.level, s.Problems)
			}
			if tc.words == "" {
				return
			}
			if p := s.Problems[0]; !strings.Contains(p.Words, tc.words) || !p.Since.Equal(tc.since) || p.Do == "" {
				t.Errorf("it is %+v, want %q since %v", p, tc.words, tc.since)
			}
		})
	}
}

func TestBannerHasWhatTheMetricsKnowOfTheStorage(t *testing.T) {
	s := metrics.Snapshot{LastSync: noon, SyncsFailed: 7}
	if n := NumbersOf(&s); !n.LastSync.Equal(noon) || n.SyncsFailed != 7 {
		t.Errorf("the last success was at %v, after %d failures; want noon and 7", n.LastSync, n.SyncsFailed)
	}
}

func TestAnEvictionThatIsStuckIsTold(t *testing.T) {
	for name, tc := range map[string]struct {
		state  string
		period time.Duration
		fell   time.Duration // when one of 100 tunnels ended; zero: none did
		want   time.Duration // since when it is stuck
		told   time.Duration // from when on; zero: never
	}{
		"none ends":           {upstream.Evict, 0, 0, 0, stuckAfter},
		"no more end":         {upstream.Evict, 0, 7 * time.Minute, 7 * time.Minute, 7*time.Minute + stuckAfter},
		"its period is long":  {upstream.Evict, 15 * time.Minute, 0, 15 * time.Minute, 15*time.Minute + stuckAfter},
		"a drain":             {upstream.Drain, 0, 0, 0, 0},
		"a maint":             {upstream.Maint, 0, 0, 0, 0},
		"nobody is there":     {upstream.Evict, 0, -1, 0, 0},
		"an operator's, long": {upstream.Evict, 2 * time.Hour, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(0)
			b := inUse(t, f)
			u := &f.upstreams[0]
			u.State, u.By, u.Since, u.Tunnels, u.Period = tc.state, "alice", noon, 100, tc.period.Seconds()
			if tc.fell < 0 {
				u.Tunnels = 0
			}
			var told time.Duration
			var problem Problem
			for after := time.Duration(0); after <= time.Hour && told == 0; after += time.Minute {
				if after > 0 && after == tc.fell {
					u.Tunnels--
				}
				b.at(noon.Add(after))
				if s := b.summary(noon.Add(after)); len(s.Problems) > 0 {
					told, problem = after, s.Problems[0]
				}
			}
			if told != tc.told {
				t.Fatalf("it is told after %v, want %v: %+v", told, tc.told, problem)
			}
			if told == 0 {
				return
			}
			if !problem.Since.Equal(noon.Add(tc.want)) || !strings.Contains(problem.Words, "10.0.0.1:80 is being evicted") || problem.Do == "" {
				t.Errorf("it is %+v, want it since %v", problem, tc.want)
			}
			u.Tunnels--
			if s := b.summary(noon.Add(told + time.Second)); len(s.Problems) > 0 {
				t.Errorf("when one has ended, the problems are %+v", s.Problems)
			}
		})
	}
}
