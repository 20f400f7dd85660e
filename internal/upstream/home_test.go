package upstream

import (
	"testing"
	"time"
)

// at has a client belong to the i-th upstream.
func (s *site) at(i int, session bool) func(*Candidates) {
	return func(c *Candidates) { c.Home, c.Session = s.Fixed[i], session }
}

// What a known client meets. There is a second upstream, to which it must not go
// unless that is said.
func TestKnownClient(t *testing.T) {
	tests := map[string]struct {
		limits  Server
		session bool
		happens func(w *world, s *site)
		want    string
		err     error
	}{
		"goes where it belongs": {want: "b:1"},
		"also while that is drained": {
			happens: func(w *world, _ *site) { w.operate(Drain, "b:1") },
			want:    "b:1",
		},
		"is one like others if that is closed": {
			happens: func(w *world, _ *site) { w.operate(Maint, "b:1") },
			want:    "a:1",
		},
		"also in a session": {
			session: true,
			happens: func(w *world, _ *site) { w.operate(Maint, "b:1") },
			want:    "a:1",
		},
		"is one like others if that cannot be reached": {
			happens: func(_ *world, s *site) { s.fail(1, 2) },
			want:    "a:1",
		},
		"is one like others if that is full": {
			limits:  Server{MaxTunnels: 1},
			happens: func(w *world, _ *site) { w.occupy("b:1") },
			want:    "a:1",
		},
		"is refused at once in a session": {
			limits: Server{MaxTunnels: 1}, session: true,
			happens: func(w *world, _ *site) { w.occupy("b:1") },
			err:     ErrHomeFull,
		},
		"is one like others if that has gone": {
			happens: func(_ *world, s *site) {
				s.Grow(1, false)
				s.Found.by[0] = nil
				s.Fixed = s.Fixed[:1]
				s.Set(0, nil)
			},
			want: "a:1",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(_ *testing.T, w *world) {
				test.limits.Weight = 1
				s := w.load(func(p *Pool) { waiting(p); watching(p) })
				for _, address := range []string{"a:1", "b:1"} {
					one := test.limits
					s.AddFixed(&one, Address{HostPort: address})
				}
				gone := s.Fixed[1]
				if test.happens != nil {
					test.happens(w, s)
				}
				one := s.standAs(func(c *Candidates) { c.Home, c.Session = gone, test.session })
				one.expect(test.want, test.err)
				one.leave()
				for _, h := range w.m {
					for h.tunnels > 0 {
						w.TunnelEnded(h)
					}
				}
				if len(s.Fixed) == 1 {
					s.Leave(gone)
					w.Unname(gone.Host, "", false)
				}
			})
		})
	}
}

func TestKnownClientWaitsWhereItBelongs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.loadLimited(Server{MaxHandshakes: 1}, "a:1", "b:1")
		open := s.standAs(s.at(1, false))
		first, second := s.standAs(s.at(1, false)), s.standAs(s.at(1, true))
		first.expectWaiting("b:1 has one under way")
		second.expectWaiting("b:1 has one under way")
		newcomer := s.stand()
		newcomer.expect("a:1", nil)
		newcomer.leave()
		first.expectWaiting("a place at a:1 is none for it")
		if got, _ := w.Info("b:1"); got.Queued != 2 {
			t.Errorf("%d are queued at b:1, want 2", got.Queued)
		}
		open.answer()
		first.expect("b:1", nil)
		<-second.done
		second.expect("", ErrQueueTimeout)
		leave(open, first, second)
	})
}

func TestWithoutAQueueNobodyWaitsThere(t *testing.T) {
	inWorld(t, func(_ *testing.T, w *world) {
		s := w.loadLimited(Server{MaxHandshakes: 1}, "a:1", "b:1")
		s.Queue = QueueLimits{}
		open, other := s.standAs(s.at(1, false)), s.standAs(s.at(1, false))
		other.expect("", ErrQueueFull)
		leave(open, other)
	})
}

// While it waits, the upstream where it belongs may become one that it cannot have.
func TestHomeThatIsLostMeanwhile(t *testing.T) {
	tests := map[string]struct {
		happens func(w *world, s *site)
		want    string
		err     error // of a session
	}{
		"it is closed":         {happens: func(w *world, _ *site) { w.operate(Maint, "b:1") }, want: "a:1"},
		"it cannot be reached": {happens: func(_ *world, s *site) { s.fail(1, 2) }, want: "a:1"},
		"it fails its check": {
			happens: func(w *world, s *site) { w.Report(w.Judge(s.Fixed[1], "check"), "no answer", 1, 1) },
			want:    "a:1",
		},
		"it gets full": {
			happens: func(w *world, _ *site) {
				h := w.occupy("b:1")
				w.t.Cleanup(func() { w.TunnelEnded(h) })
				w.mu.Lock()
				defer w.mu.Unlock()
				w.serveLocked()
			},
			want: "a:1", err: ErrHomeFull,
		},
	}
	for name, test := range tests {
		for _, session := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					s := w.load(func(p *Pool) { waiting(p); watching(p) })
					for _, address := range []string{"a:1", "b:1"} {
						s.AddFixed(&Server{Weight: 1, MaxHandshakes: 1, MaxTunnels: 2}, Address{HostPort: address})
					}
					open, one := s.standAs(s.at(1, false)), s.standAs(s.at(1, session))
					one.expectWaiting("one is under way")
					test.happens(w, s)
					if session && test.err != nil {
						one.expect("", test.err)
					} else {
						one.expect(test.want, nil)
					}
					leave(open, one)
				})
			})
		}
	}
}

func TestReloadWhileSomebodyWaitsWhereItBelongs(t *testing.T) {
	inWorld(t, func(_ *testing.T, w *world) {
		s := w.loadLimited(Server{MaxHandshakes: 1}, "a:1", "b:1")
		open, one := s.standAs(s.at(1, false)), s.standAs(s.at(1, false))
		after := w.loadLimited(Server{MaxHandshakes: 1}, "a:1", "b:1")
		s.unload()
		newer := after.standAs(after.at(1, false))
		one.expectWaiting("one is under way")
		open.answer()
		one.expect("b:1", nil)
		newer.expectWaiting("one is under way")
		time.Sleep(time.Second)
		one.leave()
		newer.expect("b:1", nil)
		leave(open, newer)
	})
}
