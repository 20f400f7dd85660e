package limit

import (
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func TestRate(t *testing.T) {
	for _, c := range []struct {
		name      string
		perSecond float64
		burst     int
		want      []float64 // when the handshakes begin of 6 that come at once
	}{
		{"evenly", 10, 1, []float64{0, 0.1, 0.2, 0.3, 0.4, 0.5}},
		{"some at once", 10, 3, []float64{0, 0, 0, 0.1, 0.2, 0.3}},
		{"less than one a second", 0.5, 1, []float64{0, 2, 4, 6, 8, 10}},
		{"a burst of zero", 1, 0, []float64{0, 1, 2, 3, 4, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRate(c.perSecond, c.burst)
			now := start
			for i, want := range c.want {
				if next := r.Next(now); next.After(now) {
					if r.Allows(now) || r.Allows(next.Add(-1)) {
						t.Errorf("handshake %d may begin before it should", i)
					}
					now = next
				}
				if !r.Allows(now) || !now.Equal(at(want)) {
					t.Errorf("handshake %d begins after %v, want %v", i, now.Sub(start), at(want).Sub(start))
				}
				r.Take(now)
			}
		})
	}
}

// What was not used is not saved up beyond the burst.
func TestRateSavesNoMoreThanItsBurst(t *testing.T) {
	r := NewRate(100, 5)
	r.Take(start)
	now := at(3600)
	n := 0
	for ; r.Allows(now); n++ {
		r.Take(now)
	}
	if n != 5 {
		t.Errorf("after an hour %d begin at once, want 5", n)
	}
}

func TestRetryAfterGivesEachItsSlot(t *testing.T) {
	var r RetryAfter[int]
	for i := range 2000 { // 200 a second
		r.Served(at(float64(i) / 200))
	}
	now := at(10)
	if rate := r.Rate(now); rate < 199 || rate > 201 {
		t.Errorf("measured are %.1f a second, want 200", rate)
	}
	var last time.Duration
	for client := range 1800 {
		last = r.After(now, client, 0)
	}
	if want := 10 * time.Second; (last - want).Abs() > 100*time.Millisecond {
		t.Errorf("the last of 1,800 comes after %v, want %v", last, want)
	}
	if got := r.After(now, 1800, 0.5) - last; got < 500*time.Millisecond || got > 510*time.Millisecond {
		t.Errorf("one more comes %v later, want half a second and its slot", got)
	}
	if got := r.After(at(30), 0, 0); got > 2*time.Second {
		t.Errorf("much later the first one waits %v", got)
	}
}

func TestRetryAfterHasBounds(t *testing.T) {
	var r RetryAfter[int]
	if got := r.After(start, 0, 0); got > 2*time.Second {
		t.Errorf("where nothing was measured the first waits %v", got)
	}
	for i := range 20_000 {
		if got := r.After(start, i/2, 0.999); got > mostRetry+time.Second {
			t.Fatalf("told to wait %v", got)
		}
	}
	r.Served(at(1000))
	if rate := r.Rate(at(1000.5)); rate != 1 {
		t.Errorf("in its first second the rate is %v, want 1", rate)
	}
	if rate := r.Rate(at(1e6)); rate != leastRate {
		t.Errorf("long after the last handshake the rate is %v, want %v", rate, leastRate)
	}
}

// Who comes back thousands of times does not send others away for minutes, and is itself
// told one slot after the other, as many may come from one address.
func TestRetryAfterOfOneClientIsNotThatOfOthers(t *testing.T) {
	t.Parallel()
	var r RetryAfter[string]
	now := at(0)
	var last time.Duration
	for range 100 {
		last = r.After(now, "many", 0)
	}
	if want := 110 * time.Second; (last - want).Abs() > 2*time.Second {
		t.Errorf("the last of 100 of one client comes after %v, want %v", last, want)
	}
	if got := r.After(now, "one", 0); got > 3*time.Second {
		t.Errorf("another client waits %v", got)
	}
	if got := r.After(at(1000), "many", 0); got > 2*time.Second {
		t.Errorf("who comes in its time waits %v", got)
	}
	for range 10 * mostTold {
		r.After(now, "many", 0)
	}
	if len(r.told)+len(r.before) > 2 {
		t.Errorf("of two clients %d and %d are remembered", len(r.told), len(r.before))
	}
}

func TestRetryAfterRemembersSoManyClients(t *testing.T) {
	t.Parallel()
	var r RetryAfter[int]
	for client := range 10 * mostTold {
		r.After(start, client, 0)
	}
	if n := len(r.told) + len(r.before); n > 2*mostTold {
		t.Errorf("%d clients are remembered", n)
	}
}
