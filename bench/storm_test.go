package main

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUpstreamOfAStormIsSlowerBeyondItsBestNumber(t *testing.T) {
	for n, want := range map[int]float64{0: 0, 1: 25, 4: 100, 8: 200, 58: 100, 4508: 200.0 / 91} {
		if got := stormSpeed(n); got != want {
			t.Errorf("with %d under way it does %v a second, want %v", n, got, want)
		}
	}
}

func TestDeskWorksAtAllHandshakesAtOnce(t *testing.T) {
	for _, n := range []int{1, 8, 58, 500} {
		synctest.Test(t, func(t *testing.T) {
			d, done := newDesk(), make(chan time.Time, n)
			begun, ideal := time.Now(), 0.0
			for range n {
				d.take(func() { done <- time.Now() })
			}
			// The last of n exponential works ends when all are through, one by one.
			for left := n; left > 0; left-- {
				ideal += 1 / stormSpeed(left)
			}
			var last time.Time
			for range n {
				last = <-done
			}
			if got := last.Sub(begun).Seconds() / ideal; n > 8 && math.Abs(got-1) > 0.5 {
				t.Errorf("%d take %.2f times as long as they are expected to", n, got)
			}
			synctest.Wait()
			if len(d.jobs) != 0 {
				t.Errorf("%d are left", len(d.jobs))
			}
		})
	}
}

func TestDeskForgetsWhoIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		dropped := d.take(func() { t.Error("who was dropped is answered") })
		done := make(chan struct{})
		other := d.take(func() { close(done) })
		if !d.drop(dropped) || d.drop(dropped) {
			t.Error("it is not dropped once")
		}
		<-done
		synctest.Wait()
		if d.drop(other) {
			t.Error("what is done is dropped")
		}
		answered := false
		late := d.take(func() { answered = true })
		d.updated = d.updated.Add(-time.Hour) // it is done, and the timer is late
		if d.drop(late) || !answered {
			t.Error("what was due is dropped")
		}
		time.Sleep(time.Hour)
	})
}

func TestStormEndsWhenAllHaveATunnel(t *testing.T) {
	const n = 30
	addrs := []string{startTestBackend(t), startTestBackend(t)}
	outcome, err := storm(t.Context(), addrs, n, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(outcome.waits) != n || outcome.failed != 0 || outcome.failure != nil {
		t.Errorf("%d are served, %d failed: %v", len(outcome.waits), outcome.failed, outcome.failure)
	}
}

func TestClientsOfAStormComeBack(t *testing.T) {
	listener := testListener(t)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		acceptLoop(listener, false)
		closeQuietly(conn) // with what the client has sent unread it would be reset before
	}()
	outcome, err := storm(t.Context(), []string{listener.Addr().String()}, 2, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(outcome.waits) != 2 || outcome.failed != 1 {
		t.Errorf("%d are served, %d failed, want 2 and 1", len(outcome.waits), outcome.failed)
	}
	if _, ok := errors.AsType[statusError](outcome.failure); !ok {
		t.Errorf("the failure is %v, want a status", outcome.failure)
	}
}

func TestStormIsGivenUp(t *testing.T) {
	listener := testListener(t) // accepts nobody
	outcome, err := storm(t.Context(), []string{listener.Addr().String()}, 2, 50*time.Millisecond)
	if err != nil || len(outcome.waits) != 0 || outcome.failed != 0 {
		t.Errorf("got %+v, %v", outcome, err)
	}
}

func TestValuesOfAStorm(t *testing.T) {
	const ideal = 10 * time.Second
	waits := make([]time.Duration, 100)
	for i := range waits {
		waits[i] = time.Duration(i+1) * 150 * time.Millisecond
	}
	for _, c := range []struct {
		name   string
		served int
		want   []float64
	}{
		{"all are served", 100, []float64{1.5, 3, 14.85}},
		{"the last is not", 99, []float64{stormCap, 3, 14.85}},
		{"two are not", 98, []float64{stormCap, 3, 10 * stormCap}},
	} {
		got := stormOutcome{waits: waits[:c.served], failed: 3}.values(100, ideal)
		for i, want := range c.want {
			if math.Abs(got[i]-want) > 1e-9 {
				t.Errorf("%s: value %d is %v, want %v", c.name, i, got[i], want)
			}
		}
	}
}

func TestPeersOfAStormHaveTheirLimits(t *testing.T) {
	s := settings{Plain: 1234, TLS: 1235, Upstreams: []string{"127.0.0.1:81", "127.0.0.1:82"}, Dir: "/folder"}
	want := map[string]string{
		ourName:          "max_handshakes auto",
		bestName:         "max_handshakes 4",
		unlimitedName:    "queue 10000 60s\n",
		nginxName:        "rate=200r/s",
		tunedNginxName:   "rate=150r/s",
		haproxyName:      "rate-limit sessions 200",
		tunedHAProxyName: "rate-limit sessions 90",
	}
	peers := stormPeers(options{caddy: "caddy"})
	if len(peers) != len(want) || peers[0].name != ourName {
		t.Errorf("got %d peers, want %d", len(peers), len(want))
	}
	for _, p := range peers {
		p.proxies = 2
		config, err := p.config(s)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(config), want[p.name]) {
			t.Errorf("%s has no %s:\n%s", p.name, want[p.name], config)
		}
	}
}

func TestGoalsOfAStormAreAboutItsRows(t *testing.T) {
	var names []string
	for _, m := range stormMeasurements(9000) {
		for _, line := range m.rows {
			names = append(names, line.name)
		}
	}
	found := 0
	for name := range goals {
		if !strings.HasPrefix(name, "storm") {
			continue
		}
		found++
		if !strings.Contains(strings.Join(names, "\n"), name) {
			t.Errorf("no row is called %s", name)
		}
	}
	if found != 4 {
		t.Errorf("%d rows have goals, want 4", found)
	}
}
