package upstream

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a table as a process has it, in a bubble of its own time.
type world struct {
	*Table

	t *testing.T
	// said numbers what operators have said.
	said uint64
}

// inWorld runs a test, at the end of which everything has to be given back.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t}
		w.Table = NewTable(func(c Change) {
			if c.Kind != AddressDown {
				w.JoinPools(c.Endpoints)
			}
		})
		t.Cleanup(func() {
			if held := w.Held(); held != (Held{}) {
				t.Errorf("still held are %+v", held)
			}
		})
		test(t, w)
	})
}

// site is a configuration that is loaded: a pool.
type site struct {
	*Pool

	w *world
	// unload takes it away.
	unload func()
}

// load loads a configuration that has these upstreams, after it was set up.
func (w *world) load(set func(p *Pool), addresses ...string) *site {
	w.t.Helper()
	s := &site{Pool: NewPool(w.Table), w: w}
	s.Policy = LeastConn{}
	set(s.Pool)
	for _, address := range addresses {
		s.AddFixed(&Server{Weight: 1, MaxTunnels: s.MaxTunnels, Dial: address}, Address{HostPort: address})
	}
	s.unload = sync.OnceFunc(func() { s.Release() })
	w.t.Cleanup(s.unload)
	return s
}

func asItIs(*Pool) {}

// narrow has upstreams take one tunnel each.
func narrow(p *Pool) { narrowFor(1000)(p) }

// narrowFor is narrow with a queue of this size.
func narrowFor(size int) func(*Pool) {
	return func(p *Pool) { p.MaxTunnels, p.Queue = 1, QueueLimits{Size: size, Timeout: time.Minute} }
}

// watching has upstreams fail after two failures.
func watching(p *Pool) { p.Passive = FailureLimits{Duration: time.Minute, Max: 2} }

// operate has operators say this, and nothing else, about an address.
func (w *world) operate(state, address string) {
	w.said++
	w.SetStates(w.said, map[string]State{address: {State: state, At: time.Now()}})
}

// occupy counts a tunnel at an address.
func (w *world) occupy(address string) *Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.acquireLocked(address)
	defer w.releaseLocked(h)
	h, _ = w.reserveLocked(h)
	h.underWay--
	return h
}

// fail has connections to the i-th upstream fail so often.
func (s *site) fail(i, times int) {
	for range times {
		s.w.Failed(s.Fixed[i].Failures)
	}
}

// chooses returns the address that a handshake would go to now.
func (s *site) chooses() string {
	s.w.t.Helper()
	c, err := s.Candidates(nil)
	if err != nil {
		s.w.t.Fatal(err)
	}
	defer c.Close()
	chosen, err := c.Next(s.w.t.Context())
	if err != nil {
		s.w.t.Fatal(err)
	}
	if chosen == nil {
		return ""
	}
	s.expectSlotsInStep()
	s.w.GiveBack(chosen)
	s.expectSlotsInStep()
	return chosen.Host.Address
}

// expectSlotsInStep checks that what choices go by is what holds.
func (s *site) expectSlotsInStep() {
	s.w.t.Helper()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.passLocked()
	for i, got := range s.slots {
		want := got.endpoint.slotLocked()
		want.current, want.drawn = got.current, got.drawn
		if got != want || got.endpoint.at != i || got.endpoint.pool != s.Pool {
			s.w.t.Errorf("the slot of %s is %+v, want %+v", got.endpoint.Host.Address, got, want)
		}
	}
}

// standing is a handshake without connections, which may wait.
type standing struct {
	*Candidates

	w      *world
	cancel context.CancelFunc
	chosen *Choice
	err    error
	done   chan struct{}
}

// stand has another handshake choose an upstream, and returns when it has or waits.
func (s *site) stand() *standing {
	s.w.t.Helper()
	return s.standAs(func(*Candidates) {})
}

// standAs is stand for a client of which something is known.
func (s *site) standAs(set func(c *Candidates)) *standing {
	s.w.t.Helper()
	c, err := s.Candidates(nil)
	if err != nil {
		s.w.t.Fatal(err)
	}
	set(c)
	one := &standing{w: s.w, Candidates: c}
	one.again()
	return one
}

func (s *standing) again() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan struct{})
	s.chosen, s.err = nil, nil
	(&site{Pool: s.pool, w: s.w}).expectSlotsInStep()
	go func() {
		defer close(s.done)
		s.chosen, s.err = s.Next(ctx)
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

// expect checks what was decided: the address, or an error.
func (s *standing) expect(address string, want error) {
	s.w.t.Helper()
	switch {
	case s.waits():
		s.w.t.Errorf("still waits, want %s, %v", address, want)
	case !errors.Is(s.err, want):
		s.w.t.Errorf("got %+v, %v; want %v", s.chosen, s.err, want)
	case address != "" && (s.chosen == nil || s.chosen.Host.Address != address):
		s.w.t.Errorf("got %+v, %v; want %s", s.chosen, s.err, address)
	}
}

// expectWaiting checks that nothing was decided yet; if something was, that is the problem.
func (s *standing) expectWaiting(problem string) {
	s.w.t.Helper()
	if !s.waits() {
		s.w.t.Errorf("%s: got %+v, %v; want it to wait", problem, s.chosen, s.err)
	}
}

// leave ends the tunnel, if there is one.
func (s *standing) leave() {
	s.w.t.Helper()
	s.cancel()
	<-s.done
	s.Close()
	if s.chosen != nil {
		s.w.GiveBack(s.chosen)
		s.chosen = nil
	}
	synctest.Wait()
}

// leave has all of them leave, one after another.
func leave(all ...*standing) {
	for _, one := range all {
		one.leave()
	}
}
