package upstream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
)

// waiting has a queue, and limits for all upstreams that loadLimited loads.
func waiting(p *Pool) { p.Queue = QueueLimits{Size: 1000, Timeout: time.Minute} }

// loadLimited loads upstreams with limits.
func (w *world) loadLimited(limits Server, addresses ...string) *site {
	w.t.Helper()
	s := w.load(waiting)
	for _, address := range addresses {
		one := limits
		one.Weight, one.Dial = 1, address
		s.AddFixed(&one, Address{HostPort: address})
	}
	return s
}

// answer ends the handshake, and not the tunnel.
func (s *standing) answer() {
	s.w.HandshakeEnded(s.chosen, limit.Answered)
	synctest.Wait()
}

func TestHandshakesWaitAndTunnelsDoNotCount(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.loadLimited(Server{MaxHandshakes: 2}, "a:1")
		var all []*standing
		for range 6 {
			all = append(all, s.stand())
		}
		for i := range 4 {
			all[i].expect("a:1", nil)
			all[i+2].expectWaiting("there are two handshakes already")
			all[i].answer()
			all[i].answer() // is counted once
			s.expectSlotsInStep()
		}
		if got := all[5].chosen.Host.tunnels; got != 6 {
			t.Errorf("there are %d tunnels, want 6", got)
		}
		leave(all...)
	})
}

func TestHandshakesOfAllHandlersCount(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s, other := w.loadLimited(Server{MaxHandshakes: 1}, "a:1"), w.load(asItIs, "a:1")
		first := other.stand()
		second := s.stand()
		second.expectWaiting("a handler that has no limit has one under way")
		third := other.stand()
		third.expect("a:1", nil)
		first.answer()
		second.expectWaiting("another one is still under way")
		third.leave()
		second.expect("a:1", nil)
		leave(first, second)
	})
}

func TestRateLetsThemInAsTimePasses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.loadLimited(Server{HandshakeRate: HandshakeRate{PerSecond: 2, Burst: 3}}, "a:1", "b:1")
		began := time.Now()
		var all []*standing
		for range 20 {
			all = append(all, s.stand())
		}
		if got := w.Held().timers; got != 1 {
			t.Errorf("%d timers, want one for all who wait", got)
		}
		for i, one := range all {
			<-one.done
			want := time.Duration(max(0, i-6)/2+1) * time.Second / 2
			if i < 6 {
				want = 0
			}
			if got := time.Since(began); got != want || one.err != nil {
				t.Errorf("handshake %d was served after %v, %v; want %v", i, got, one.err, want)
			}
		}
		if got := w.Held().timers; got != 0 {
			t.Errorf("%d timers when nobody waits", got)
		}
		time.Sleep(10 * time.Second)
		next := s.stand()
		next.expect("", nil)
		leave(append(all, next)...)
	})
}

func TestTimerStopsWhenTheLastOneLeaves(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.loadLimited(Server{HandshakeRate: HandshakeRate{PerSecond: 0.01, Burst: 1}}, "a:1")
		first, second := s.stand(), s.stand()
		second.leave()
		if got := w.Held().timers; got != 0 {
			t.Errorf("%d timers, want none", got)
		}
		third := s.stand()
		<-third.done
		third.expect("", ErrQueueTimeout)
		leave(first, third)
	})
}

// What has been found out, and how many have come, is no matter of a configuration.
func TestReloadChangesNothing(t *testing.T) {
	for name, limits := range map[string]Server{
		"the number":         {MaxHandshakes: 1},
		"one that was found": {MaxHandshakes: AutoHandshakes},
		"the rate":           {HandshakeRate: HandshakeRate{PerSecond: 1, Burst: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.loadLimited(limits, "a:1")
				var all []*standing
				for len(all) < 100 && (len(all) == 0 || !all[len(all)-1].waits()) {
					all = append(all, s.stand())
				}
				after := w.loadLimited(limits, "a:1")
				s.unload()
				last := after.stand()
				last.expectWaiting("the old one's handshakes are under way")
				time.Sleep(5 * time.Millisecond)
				for _, one := range all {
					if !one.waits() {
						one.answer()
					}
				}
				time.Sleep(10 * time.Second)
				for _, one := range append(all, last) {
					one.expect("a:1", nil)
				}
				leave(append(all, last)...)
			})
		})
	}
}

func TestRatesOfEarlierConfigurationsGo(t *testing.T) {
	inWorld(t, func(_ *testing.T, w *world) {
		unload := func() {}
		for i := range 5 {
			s := w.loadLimited(Server{HandshakeRate: HandshakeRate{PerSecond: float64(10 + i), Burst: 1}}, "a:1")
			unload()
			unload = s.unload
			s.stand().leave()
			time.Sleep(time.Second)
			w.mu.Lock()
			if got := len(w.m["a:1"].rates); got != 1 {
				w.t.Errorf("%d rates, want the newest only", got)
			}
			w.mu.Unlock()
		}
	})
}

// It serves everybody, and begins with few.
func TestLimitThatIsFoundOut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.loadLimited(Server{MaxHandshakes: AutoHandshakes}, "a:1")
		const n = 500
		var all []*standing
		for range n {
			all = append(all, s.stand())
		}
		if got := s.WaitingNow(); got != n-4 {
			t.Errorf("%d wait, want all but 4", got)
		}
		for s.WaitingNow() > 0 {
			time.Sleep(10 * time.Millisecond)
			for _, one := range all {
				if one.chosen != nil && !one.chosen.answered {
					one.answer()
				}
			}
		}
		leave(all...)
	})
}

// An upstream that never answers lets some in from time to time, and the others wait for
// as long as the queue lets them.
func TestNothingEndsAtAll(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.loadLimited(Server{MaxHandshakes: AutoHandshakes}, "a:1")
		var all []*standing
		for range 1000 {
			all = append(all, s.stand())
		}
		time.Sleep(5 * time.Second)
		if in := 1000 - s.WaitingNow(); in < 10 || in > 300 {
			t.Errorf("%d were let in, want some", in)
		}
		leave(all...)
	})
}

func TestClientsAreServedInTurn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, other := w.load(narrow, "a:1"), w.load(narrow, "a:1")
		as := func(n int) func(*Candidates) { return func(c *Candidates) { c.Client = client(n) } }
		open := one.stand()
		var many []*standing
		for range 100 {
			many = append(many, one.standAs(as(1)))
		}
		second, third, fourth := one.standAs(as(2)), other.standAs(as(3)), other.standAs(as(1))
		open.leave()
		for _, next := range []*standing{many[0], second, third, many[1], many[2]} {
			next.expect("a:1", nil)
			next.leave()
		}
		fourth.expectWaiting("its client has older ones")
		leave(append(many[3:], fourth)...)
	})
}

func TestNewestOfTheLongestGoes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrowFor(3), "a:1")
		as := func(n int) func(*Candidates) { return func(c *Candidates) { c.Client = client(n) } }
		open := s.stand()
		first, second, newest := s.standAs(as(1)), s.standAs(as(1)), s.standAs(as(1))
		other := s.standAs(as(2))
		newest.expect("", ErrQueueFull)
		again := s.standAs(as(1))
		again.expect("", ErrQueueFull)
		first.expectWaiting("it is the oldest")
		if got := s.WaitingNow(); got != 3 {
			t.Errorf("%d wait, want 3", got)
		}
		leave(first, second, newest, other, again, open)
	})
}

// expectNobodyForgotten checks that nobody waits for what could be had.
func (w *world) expectNobodyForgotten() {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.queues {
		until := q.until
		if q.home == nil {
			until = q.pool.nextPass
		} else if lacks, _ := q.home.lacksHandshakes(); !q.own && (!lacks || q.home.lacksTunnels() || !q.home.isOpen()) {
			w.t.Errorf("%d wait at %s, and need not", q.Len(), q.home.Host.Address)
		}
		for p := range q.All() {
			if c := p.Value.candidates; c.roams && c.mightChooseLocked() {
				w.t.Errorf("%v waits, and there is something for it", c.Client)
			}
		}
		if !until.IsZero() && time.Since(until) > time.Millisecond {
			w.t.Errorf("%d are not told that time has passed since %v", q.Len(), until)
		}
	}
}

// mightChooseLocked reports whether there is a place for a handshake that may go anywhere,
// and takes none.
func (c *Candidates) mightChooseLocked() (might bool) {
	slots := slices.Clone(c.slotsLocked())
	c.hideTried(slots)
	defer c.pool.unhide(slots, 0)
	if c.HasKey {
		of, _ := c.pool.Keys.fleetOf(slots)
		return of != closed
	}
	seen := classesOf(slots)
	of, ok := firstOf(seen)
	return ok || trialLocked(slots, seen, of) >= 0
}

// Whatever happens, nobody is forgotten, and no place is lost.
func TestStormOfEverything(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				r := rand.New(rand.NewPCG(seed, 1))
				limits := Server{MaxHandshakes: 1 + r.IntN(3), MaxTunnels: 20, HandshakeRate: HandshakeRate{PerSecond: 20, Burst: 2}}
				if seed%2 == 0 {
					limits.MaxHandshakes = AutoHandshakes
				}
				addresses := []string{"a:1", "b:1", "c:1"}
				owns := []string{"own:1", "own:2", "own:3", "own:4"}
				own := make([]*Server, len(owns))
				for i := range own {
					own[i] = &Server{Weight: 1, MaxHandshakes: 1 + i%2, Backup: i == 3}
					if i == 2 {
						own[i].HandshakeRate = HandshakeRate{PerSecond: 10, Burst: 1}
					}
				}
				load := func() *site {
					s := w.loadLimited(limits, addresses...)
					s.Grow(1, true)
					if seed%3 > 0 {
						withRooms([]int{0, 125}[seed%3-1])(s.Pool)
					}
					return s
				}
				if seed%5 == 0 {
					limits.MaxTunnels = 4
				}
				s := load()
				var all []*standing
				for range 300 {
					switch r.IntN(12) {
					case 0:
						before := s
						s = load()
						before.unload()
					case 1:
						w.operate([]string{Ready, Drain, Maint}[r.IntN(3)], slices.Concat(addresses, owns)[r.IntN(7)])
					case 2, 3:
						time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
					case 4, 5, 6:
						if len(all) > 0 {
							i := r.IntN(len(all))
							all[i].leave()
							all[i] = all[len(all)-1]
							all = all[:len(all)-1]
						}
					case 7:
						for _, one := range all {
							if !one.waits() && one.chosen != nil {
								one.answer()
							}
						}
					default:
						all = append(all, s.standAs(func(c *Candidates) {
							c.Client = client(r.IntN(4))
							c.ByKey([]string{"", "room", "another", "a third"}[r.IntN(4)])
							for range r.IntN(3) {
								if at := r.IntN(len(own)); !c.Has(owns[at]) {
									c.Add(NewEndpoint(own[at], Address{HostPort: owns[at]}), new(Provenance), "")
								}
							}
							if r.IntN(4) == 0 {
								c.tried = append(c.tried, s.Fixed[r.IntN(3)].Server)
							}
							if r.IntN(2) == 0 {
								c.Home, c.Session = s.Fixed[r.IntN(3)], r.IntN(2) == 0
							}
						}))
					}
					w.expectNobodyForgotten()
					s.expectSlotsInStep()
				}
				w.operate(Ready, "a:1")
				time.Sleep(time.Minute)
				for _, one := range all {
					if one.waits() {
						t.Error("waits for ever")
					}
				}
				leave(all...)
			})
		})
	}
}
