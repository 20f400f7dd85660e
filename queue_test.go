package websocketproxy

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// queued is how many handshakes wait in h's queue.
func queued(h *Handler) int {
	return h.pool.WaitingNow()
}

// narrow returns a handler whose upstreams take one tunnel each.
func narrow(dials ...string) *Handler {
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{MaxTunnels: 1, Queue: &Queue{Timeout: caddy.Duration(time.Minute)}},
		Timeouts:      &Timeouts{Handshake: -1},
	}
}

func TestQueueOfAThousandIsServedInOrder(t *testing.T) {
	const waiting = 1000
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, narrow(up.Addr))
	open := testbed.Dial(t, p.Addr)
	open.Handshake("/")
	var clients []*testbed.Client
	for i := range waiting {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		eventually(t, "it waits", func() bool { return queued(p.handler) == i+1 })
		clients = append(clients, c)
	}
	p.expectRefusal(causeQueueFull, http.StatusServiceUnavailable, func() {
		expectRetryAfter(t, expectRefused(t, p, http.StatusServiceUnavailable))
	})
	for i, c := range clients {
		open.Close()
		if got := c.Response().StatusCode; got != http.StatusSwitchingProtocols {
			t.Fatalf("client %d got status %d, want 101", i, got)
		}
		if got, want := queued(p.handler), waiting-1-i; got != want {
			t.Fatalf("%d wait after client %d was served, want %d", got, i, want)
		}
		open = c
	}
	open.Close()
}

// line is what waits in the tests below: handshakes without connections.
type standing struct {
	t      *testing.T
	cancel context.CancelFunc
	*upstream.Candidates
	chosen  *upstream.Choice
	refused *refusal
	done    chan struct{}
}

// stand has another handshake choose an upstream, and returns when it has or
// waits. It has to be in a bubble.
func stand(t *testing.T, h *Handler) *standing {
	t.Helper()
	c, err := h.pool.Candidates(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &standing{t: t, Candidates: c}
	s.again()
	return s
}

func (s *standing) again() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan struct{})
	s.chosen, s.refused = nil, nil
	go func() {
		defer close(s.done)
		var err error
		if s.chosen, err = s.Next(ctx); err != nil {
			s.refused = refuseQueued(ctx, err)
		}
	}()
	synctest.Wait()
}

// waits reports whether nothing was decided yet.
func (s *standing) waits() bool {
	synctest.Wait()
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// expect checks what was decided: the address, or the cause of a refusal.
func (s *standing) expect(address string, why cause) {
	s.t.Helper()
	switch {
	case s.waits():
		s.t.Errorf("still waits, want %s%s", address, why)
	case why != "" && (s.refused == nil || s.refused.cause != why):
		s.t.Errorf("got %+v, refused with %v; want %s", s.chosen, s.refused, why)
	case address != "" && (s.chosen == nil || s.chosen.Host.Address != address):
		s.t.Errorf("got %+v, refused with %v; want %s", s.chosen, s.refused, address)
	}
}

// leave ends the tunnel, if there is one.
func (s *standing) leave() {
	s.t.Helper()
	s.cancel()
	<-s.done
	s.Close()
	if s.chosen != nil {
		hosts.TunnelEnded(s.chosen.Host)
		s.chosen = nil
	}
	synctest.Wait()
}

// bubble runs a test of the queue in virtual time.
func bubble(t *testing.T, h *Handler, test func(t *testing.T), others ...*Handler) {
	t.Helper()
	t.Cleanup(func() { expectNothingHeld(t) })
	for _, h := range append(others, h) {
		load(t, h)
	}
	synctest.Test(t, test)
}

func TestRetryKeepsItsPlaceInTheQueue(t *testing.T) {
	h := narrow("a:1", "b:1")
	bubble(t, h, func(t *testing.T) {
		first, second := stand(t, h), stand(t, h)
		retrying, behind, last := stand(t, h), stand(t, h), stand(t, h)
		at := first.chosen.Host.Address
		time.Sleep(time.Second)
		first.leave()
		retrying.expect(at, "")

		// Its dial fails: the place goes to the one behind, and it waits for the
		// other upstream, before the others.
		hosts.TunnelEnded(retrying.chosen.Host)
		behind.expect(at, "")
		retrying.again()
		if !retrying.waits() {
			t.Errorf("chose %+v, want to wait", retrying.chosen)
		}
		if retrying.Waited != time.Second {
			t.Errorf("has waited for %v, want 1s", retrying.Waited)
		}
		other := second.chosen.Host.Address
		second.leave()
		retrying.expect(other, "")
		if !last.waits() {
			t.Error("who came later was served")
		}
		for _, s := range []*standing{retrying, behind, last} {
			s.leave()
		}
	})
}

func TestWhoCannotUseAPlaceLetsOthersHaveIt(t *testing.T) {
	h := narrow("a:1", "b:1")
	bubble(t, h, func(t *testing.T) {
		first, second := stand(t, h), stand(t, h)
		retrying, behind := stand(t, h), stand(t, h)
		at, other := first.chosen.Host.Address, second.chosen.Host.Address
		first.leave()
		hosts.TunnelEnded(retrying.chosen.Host)
		behind.expect(at, "")
		retrying.again() // waits for the other one
		behind.leave()   // which it has tried
		if !retrying.waits() {
			t.Errorf("the same upstream is tried again: %+v", retrying.chosen)
		}
		arriving := stand(t, h)
		arriving.expect(at, "")
		second.leave()
		retrying.expect(other, "")
		retrying.leave()
		arriving.leave()
	})
}

func TestArrivalsQueueBehind(t *testing.T) {
	h := narrow("a:1")
	bubble(t, h, func(t *testing.T) {
		first, waiting := stand(t, h), stand(t, h)
		first.leave()
		waiting.expect("a:1", "")
		arriving := stand(t, h)
		if !arriving.waits() {
			t.Error("an arrival was served although there is no place")
		}
		waiting.leave()
		arriving.expect("a:1", "")
		arriving.leave()
	})
}

// Handlers that share an upstream must not starve each other.
func TestQueuesOfHandlersAreServedInOneOrder(t *testing.T) {
	h, other := narrow("a:1"), narrow("a:1")
	bubble(t, h, func(t *testing.T) {
		open := stand(t, h)
		first, second, third := stand(t, h), stand(t, other), stand(t, h)
		open.leave()
		first.expect("a:1", "")
		first.leave()
		second.expect("a:1", "")
		if !third.waits() {
			t.Error("who came later was served first")
		}
		second.leave()
		third.expect("a:1", "")
		third.leave()
	}, other)
}

// A source that is asked in handshakes may find something for one of them only.
func TestWhoHasUpstreamsOfItsOwnDoesNotStandBehindOthers(t *testing.T) {
	h := narrow("a:1")
	bubble(t, h, func(t *testing.T) {
		h.pool.Grow(1, true)
		open, waiting := stand(t, h), stand(t, h)
		c, err := h.pool.Candidates(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Add(upstream.NewEndpoint(&upstream.Server{Weight: 1}, upstream.Address{HostPort: "own:1"}), new(upstream.Provenance), "")
		c.Renew()
		own := &standing{t: t, Candidates: c}
		own.again()
		own.expect("own:1", "")
		own.leave()
		if !waiting.waits() {
			t.Error("who has nothing of its own was served")
		}
		waiting.leave()
		open.leave()
	})
}

func TestQueueTimeout(t *testing.T) {
	h := narrow("a:1")
	h.LoadBalancing.Queue = nil
	bubble(t, h, func(t *testing.T) {
		open := stand(t, h)
		began := time.Now()
		waiting := stand(t, h)
		<-waiting.done
		waiting.expect("", causeQueueTimeout)
		if got, want := time.Since(began), defaultQueueTimeout; got != want {
			t.Errorf("waited %v, want %v", got, want)
		}
		if got := waiting.refused.status; got != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503", got)
		}
		expectRetryAfter(t, waiting.refused.header)
		waiting.leave()
		open.leave()
	})
}

// What was full when somebody came may not be there any more in the end.
func TestWaitingInVainSaysWhy(t *testing.T) {
	h := narrow("a:1")
	bubble(t, h, func(t *testing.T) {
		open, waiting := stand(t, h), stand(t, h)
		operate(upstream.Drain, "a:1")
		<-waiting.done
		waiting.expect("", causeNoUpstream)
		operate(upstream.Ready, "a:1")
		waiting.leave()
		open.leave()
	})
}

func TestQueueIsServedByWhateverMakesPlaces(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, h *Handler, open *standing){
		"a tunnel of another handler ends": func(t *testing.T, h *Handler, _ *standing) {
			t.Helper()
			hosts.TunnelEnded(h.pool.Fixed[1].Host) // b:1
		},
		"an upstream gets ready": func(t *testing.T, _ *Handler, _ *standing) {
			t.Helper()
			operate(upstream.Ready, "c:1")
		},
		"another handshake gives up": func(_ *testing.T, _ *Handler, open *standing) { open.leave() },
	} {
		t.Run(name, func(t *testing.T) {
			h, other := narrow("a:1", "b:1", "c:1"), &Handler{Upstreams: upstreams("b:1")}
			bubble(t, h, func(t *testing.T) {
				taken := stand(t, other) // b
				operate(upstream.Drain, "c:1")
				open, waiting := stand(t, h), stand(t, h)
				if !waiting.waits() {
					t.Fatalf("does not wait: %+v", waiting.chosen)
				}
				test(t, h, open)
				if waiting.waits() || waiting.chosen == nil {
					t.Error("was not served")
				}
				operate(upstream.Ready, "c:1")
				waiting.leave()
				open.leave()
				if name == "a tunnel of another handler ends" {
					taken.chosen = nil // it was ended
				}
				taken.leave()
			}, other)
		})
	}
}

func TestNobodyWaitsForWhatCannotCome(t *testing.T) {
	sticky := narrow("a:1")
	sticky.LoadBalancing.SelectionPolicyRaw = json.RawMessage(`{"policy": "ip_hash"}`)
	sticky.LoadBalancing.Queue = nil
	off := narrow("a:1")
	off.LoadBalancing.Queue.Size, off.LoadBalancing.Queue.Timeout = -1, 0
	for name, h := range map[string]*Handler{"a sticky choice": sticky, "without a queue": off} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Echo)
			h.Upstreams = upstreams(up.Addr)
			p := newProxy(t, h)
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/")
			expectRetryAfter(t, expectRefused(t, p, http.StatusServiceUnavailable))
			expectFields(t, p.line("handshake refused"), map[string]any{"cause": "no_upstream"})
			c.Close()
		})
	}
	t.Run("a drained upstream", func(t *testing.T) {
		h := narrow("a:1")
		bubble(t, h, func(t *testing.T) {
			open := stand(t, h)
			operate(upstream.Drain, "a:1")
			other := stand(t, h)
			if other.waits() || other.chosen != nil || other.refused != nil {
				t.Errorf("got %+v, %v; want nothing at once", other.chosen, other.refused)
			}
			operate(upstream.Ready, "a:1")
			other.leave()
			open.leave()
		})
	})
}

func TestClientThatGoesLeavesTheQueue(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, narrow(up.Addr))
	open := testbed.Dial(t, p.Addr)
	open.Handshake("/")
	p.expectRefusal(causeClientGone, statusClientClosed, func() {
		gone := testbed.Dial(t, p.Addr)
		gone.Send(testbed.HandshakeRequest("/", gone.Host))
		eventually(t, "it waits", func() bool { return queued(p.handler) == 1 })
		gone.Close()
		eventually(t, "it is gone", func() bool { return queued(p.handler) == 0 })
	})
	open.Close()
	eventually(t, "the place is free", func() bool { return tunnelsOf(up.Addr) == 0 })
}

// Who gives up at the moment in which it is served must not keep the place.
func TestPlaceThatComesTooLateIsPassedOn(t *testing.T) {
	h := narrow("a:1")
	bubble(t, h, func(t *testing.T) {
		for range 100 {
			open, leaving, behind := stand(t, h), stand(t, h), stand(t, h)
			go leaving.cancel()
			go hosts.TunnelEnded(open.chosen.Host)
			synctest.Wait()
			<-leaving.done
			if leaving.chosen != nil {
				hosts.TunnelEnded(leaving.chosen.Host)
				leaving.chosen = nil
			}
			behind.expect("a:1", "")
			behind.leave()
			leaving.Close()
			open.cancel()
			open.Close()
		}
	})
}

// The time for an upstream's answer is not that for a place at one.
func TestQueueHasATimeOfItsOwn(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, with(t, up.Addr, `{"timeouts": {"handshake": "50ms"}, "load_balancing": {"max_tunnels": 1, "queue": {"timeout": "1m"}}}`))
	first, second := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	first.Handshake("/")
	second.Send(testbed.HandshakeRequest("/", second.Host))
	second.ExpectNothing(200 * time.Millisecond)
	first.CloseHandshake(1000)
	first.Close()
	expectStatus(t, second.Response(), http.StatusSwitchingProtocols, nil)
	second.Echo("hello")
	second.CloseHandshake(1000)
}
