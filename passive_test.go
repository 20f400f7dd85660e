package websocketproxy

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// failingAddresses are those that passive checks have found failing.
func failingAddresses() map[string]bool {
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	return hosts.failingLocked()
}

// watching returns a handler whose upstreams fail after two failures.
func watching(dials ...string) *Handler {
	none := 0
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{Retries: &none},
		HealthChecks: &HealthChecks{Passive: &PassiveHealthChecks{
			FailDuration: caddy.Duration(time.Minute), MaxFails: 2,
		}},
	}
}

func TestFailedHandshakesCount(t *testing.T) {
	silent := testbed.Silent
	for name, test := range map[string]struct {
		script testbed.Script
		counts bool
	}{
		"closed at once":              {testbed.CloseAtOnce, true},
		"closed after the request":    {testbed.CloseAfterHead, true},
		"reset after the request":     {testbed.ResetAfterHead, true},
		"garbage":                     {testbed.Respond("nonsense\r\n\r\n"), true},
		"a 101 without the key":       {testbed.Respond("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), true},
		"no answer in time":           {silent, true},
		"another status":              {testbed.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), false},
		"even one of a broken server": {testbed.Respond("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), false},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, test.script)
			h := watching(up.Addr)
			h.Timeouts = &Timeouts{Handshake: caddy.Duration(100 * time.Millisecond)}
			if name != "no answer in time" {
				h.Timeouts.Handshake = 0
			}
			p := newProxy(t, h)
			for i := range 3 {
				if got, want := failingAddresses()[up.Addr], test.counts && i > 1; got != want {
					t.Errorf("failing after %d handshakes: %v, want %v", i, got, want)
				}
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host))
				c.Body(c.Response())
				c.Close()
			}
			if lines := p.logs.FilterMessage("upstream fails; it gets tunnels only if no other one can").Len(); test.counts && lines != 1 {
				t.Errorf("%d lines tell, want 1", lines)
			}
		})
	}
}

// An upstream that gets what the queue or others have left of the time for a
// handshake is not failing because that is not enough.
func TestWhoGetsLittleTimeIsNotLate(t *testing.T) {
	h := watching("a:1")
	h.Timeouts = &Timeouts{Handshake: caddy.Duration(10 * time.Second)}
	bubble(t, h, func(t *testing.T) {
		s := stand(t, h)
		late := &refusal{cause: causeHandshakeTimeout, err: errors.New("the handshake took too long")}
		for range 3 {
			h.noteFailure(s.chosen, late, 4*time.Second)
		}
		if failingAddresses()["a:1"] {
			t.Error("failing after handshakes that were given 4s of 10s")
		}
		for range 2 {
			h.noteFailure(s.chosen, late, 6*time.Second)
		}
		if !failingAddresses()["a:1"] {
			t.Error("not failing after handshakes that were given 6s of 10s")
		}
		s.leave()
		time.Sleep(2 * time.Minute)
	})
}

func TestDialFailuresCount(t *testing.T) {
	dead, up := testbed.RefusedAddr(t), testbed.NewUpstream(t, testbed.Echo)
	h := watching(dead, up.Addr)
	h.LoadBalancing = nil // retries hide it from clients
	p := newProxy(t, h)
	for range 20 {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		c.Close()
	}
	if !failingAddresses()[dead] || failingAddresses()[up.Addr] {
		t.Errorf("failing are %v, want only %s", failingAddresses(), dead)
	}
	// The least loaded one was tried first, until it was known to fail.
	if got := p.logs.FilterMessage("trying another upstream").Len(); got != 2 {
		t.Errorf("%d handshakes were tried again, want 2", got)
	}
}

func TestTunnelsThatDieAtOnceCount(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(u *testbed.Conn)
		counts bool
	}{
		"a reset":       {func(u *testbed.Conn) { u.Reset() }, true},
		"a Close frame": {func(u *testbed.Conn) { u.WriteFrame(testbed.NewClose(1011, "sorry")); u.Close() }, false},
		"an end":        {func(u *testbed.Conn) { u.Close() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			p := newProxy(t, watching(up.Addr))
			for i := range 2 {
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host))
				u := up.Next(t)
				u.AcceptHandshake()
				expectStatus(t, c.Response(), http.StatusSwitchingProtocols, nil)
				c.Tolerate()
				test.end(u)
				c.Drain()
				c.Close()
				eventually(t, "the tunnel is over", func() bool {
					return p.logs.FilterMessage("tunnel closed").Len() == i+1
				})
			}
			if got := failingAddresses()[up.Addr]; got != test.counts {
				t.Errorf("failing: %v, want %v", got, test.counts)
			}
		})
	}
}

// A client that does not close its connection keeps the tunnel until that is
// aborted, which takes longer than what counts as early.
func TestTunnelsThatDieAtOnceCountWhateverTheClientDoes(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, watching(up.Addr))
	var clients []*testbed.Client
	for range 2 {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		u := up.Next(t)
		u.AcceptHandshake()
		expectStatus(t, c.Response(), http.StatusSwitchingProtocols, nil)
		c.Tolerate()
		u.Reset()
		clients = append(clients, c)
	}
	eventually(t, "the tunnels are over", func() bool { return p.logs.FilterMessage("tunnel closed").Len() == 2 })
	if !failingAddresses()[up.Addr] {
		t.Error("is not failing after two tunnels that were reset at once")
	}
	for _, c := range clients {
		c.Close()
	}
}

// chooses returns the address that a handshake of h would go to now.
func chooses(t *testing.T, h *Handler) string {
	t.Helper()
	address, _ := chooseOnce(t, h, clientRequest(0))
	return address
}

func fail(h *Handler, i, times int) {
	for range times {
		hosts.failed(h.pool.fixed[i].failures)
	}
}

func TestWhatFailsIsChosenLast(t *testing.T) {
	h := watching("a:1", "b:1")
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: "backup:1", Backup: true})
	bubble(t, h, func(t *testing.T) {
		for range 50 {
			fail(h, 0, 2)
			if got := chooses(t, h); got != "b:1" {
				t.Fatalf("chose %s, want b:1", got)
			}
		}
		fail(h, 1, 2)
		if got := chooses(t, h); got != "backup:1" {
			t.Errorf("chose %s, want the backup", got)
		}
		// The last available one is never left out.
		fail(h, 2, 2)
		if got := chooses(t, h); got != "a:1" && got != "b:1" {
			t.Errorf("chose %s, want one that is no backup", got)
		}
		time.Sleep(2 * time.Minute) // forgets all
	})
}

func TestFailuresAreForgotten(t *testing.T) {
	h := watching("a:1", "b:1")
	bubble(t, h, func(t *testing.T) {
		fail(h, 0, 1)
		time.Sleep(40 * time.Second)
		fail(h, 0, 1)
		if got := failingAddresses(); !got["a:1"] {
			t.Errorf("failing are %v after two failures in 40s, want a:1", got)
		}
		time.Sleep(20*time.Second + time.Millisecond)
		synctest.Wait()
		if got := failingAddresses(); got["a:1"] {
			t.Error("still failing when the first is a minute old")
		}
		fail(h, 0, 1) // the second still counts
		if got := failingAddresses(); !got["a:1"] {
			t.Error("not failing after another one")
		}
		time.Sleep(2 * time.Minute)
		hosts.mu.Lock()
		defer hosts.mu.Unlock()
		if f := h.pool.fixed[0].failures; len(f.recent) > 0 || f.timer != nil || f.ejected {
			t.Errorf("remembered are %+v, want nothing", f)
		}
	})
}

func TestFailuresOutliveAReload(t *testing.T) {
	before := watching("a:1", "b:1")
	unload := load(t, before)
	bubble(t, watching("x:1"), func(t *testing.T) {
		fail(before, 0, 2)
		after := watching("a:1", "b:1")
		load(t, after)
		unload()
		if got := chooses(t, after); got != "b:1" {
			t.Errorf("chose %s, want b:1", got)
		}
		time.Sleep(2 * time.Minute)
	})
}

// What an unloaded configuration had found failing must not have the upstream
// start slowly in others, which have used it all the time.
func TestFailuresThatNobodyCountsAnyMoreChangeNothing(t *testing.T) {
	before := watching("a:1", "b:1")
	unload := load(t, before)
	bubble(t, watching("x:1"), func(t *testing.T) {
		fail(before, 0, 2)
		after := &Handler{Upstreams: upstreams("a:1", "b:1")} // with limits of its own
		load(t, after)
		unload()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		hosts.mu.Lock()
		defer hosts.mu.Unlock()
		if joined := hosts.m["a:1"].joined; !joined.IsZero() {
			t.Errorf("the upstream has joined at %v", joined)
		}
	})
}

// remembered counts the addresses of the test below that have failed lately.
func remembered() (n int) {
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	for key := range hosts.failures {
		if strings.HasPrefix(key.address, "expanded") {
			n++
		}
	}
	return n
}

// What placeholders have made fails as what is configured does, and does not
// pile up.
func TestFailuresOfExpandedAddresses(t *testing.T) {
	h := watching("{backend}")
	bubble(t, h, func(t *testing.T) {
		for i := range maxFailing + 10 {
			repl := caddy.NewReplacer()
			repl.Set("backend", fmt.Sprintf("expanded%d:1", i%(maxFailing+5)))
			c, err := h.pool.candidates(repl)
			if err != nil {
				t.Fatal(err)
			}
			hosts.failed(c.expanded[0].failures)
			c.close()
		}
		if n := remembered(); n < maxFailing/2 || n > maxFailing+1 {
			t.Errorf("%d addresses are remembered, want at most %d", n, maxFailing)
		}
		if !failingAddresses()["expanded0:1"] {
			t.Error("the second failure of an address has not met the first")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := remembered(); n != 0 {
			t.Errorf("%d addresses are remembered in the end, want none", n)
		}
	})
}

func TestPassiveChecksThatAreOff(t *testing.T) {
	for name, cfg := range map[string]PassiveHealthChecks{
		"fail_duration": {FailDuration: -1},
		"max_fails":     {MaxFails: -1},
	} {
		t.Run(name, func(t *testing.T) {
			h := watching("a:1")
			h.HealthChecks.Passive = &cfg
			load(t, h)
			if f := h.pool.fixed[0].failures; f != nil {
				t.Errorf("failures are counted: %+v", f)
			}
		})
	}
}

func TestFailuresCountForATransport(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	one, same, other := watching(hostA), watching(hostA), watching(hostA)
	same.TransportRaw = []byte(` {"protocol":"http" } `)
	other.TransportRaw = []byte(`{"protocol": "http", "dial_timeout": "1s"}`)
	for _, h := range []*Handler{one, same, other} {
		load(t, h)
	}
	failuresOf := func(h *Handler) *failures { return h.pool.fixed[0].failures }
	if failuresOf(one) != failuresOf(same) {
		t.Error("handlers with the same transport do not share what they know")
	}
	if failuresOf(one) == failuresOf(other) {
		t.Error("what fails with one transport counts for another one")
	}
}
