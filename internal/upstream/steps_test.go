package upstream

import (
	"net/netip"
	"testing"
	"time"
)

// Who is asked about an upstream must not have it forgotten that time makes a place there.
func TestWitnessesLeaveSlotsInStep(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting)
		s.AddFixed(&Server{Weight: 1, HandshakeRate: HandshakeRate{PerSecond: 1, Burst: 1}}, Address{HostPort: "a:1"})
		c := s.candidates()
		defer c.Close()
		chosen := c.Reserve(s.Fixed[0])
		s.end(chosen)
		time.Sleep(time.Second)
		if got := c.Witness(chosen, true); got != nil {
			t.Errorf("asks %s", got.Host.Address)
		}
		c.Usable()
		c.Options()
		if got := s.chooses(); got != "a:1" {
			t.Errorf("chose %q, though a handshake may begin again", got)
		}
	})
}

// Shares are reckoned anew now and then, also when somebody comes again, who must not get to
// the one that it has tried.
func TestWhoComesAgainGoesElsewhereThoughSharesChange(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.measured(asItIs, "a:1", "b:1")
		held := s.fill("b:1", 5) // so that the other one has less
		c := s.candidates()
		defer c.Close()
		for _, want := range []string{"a:1", "b:1"} {
			chosen, err := c.Next(t.Context())
			if err != nil || chosen.Host.Address != want {
				t.Fatalf("got %+v, %v; want %s", chosen, err, want)
			}
			s.end(chosen)
			time.Sleep(time.Second)
		}
		for _, h := range held {
			w.TunnelEnded(h)
		}
	})
}

// Where all others are full, newcomers wait for them, and not any more once these are
// doubtful, too.
func TestWhoWaitsIsServedWhenAllAreDoubtful(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) { doubting(p); narrow(p) }, "a:1", "b:1")
		s.convict(0)
		there, waits := s.stand(), s.stand()
		there.expect("b:1", nil)
		waits.expectWaiting("while the other one is full")
		s.convict(1)
		waits.expect("a:1", nil)
		leave(there, waits)
	})
}

// When it is time to try a doubtful one, who waits does.
func TestWhoWaitsTriesADoubtfulOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) { doubting(p); narrow(p) }, "a:1", "b:1")
		s.convict(0)
		there, one, two := s.stand(), s.stand(), s.stand()
		there.expect("b:1", nil)
		one.expectWaiting("while the other one is full")
		time.Sleep(failDuration)
		one.expect("a:1", nil)
		two.expectWaiting("while one tries")
		s.end(one.chosen) // the client has gone
		one.chosen = nil
		two.expect("a:1", nil)
		leave(there, one, two)
	})
}

// Clients of which nothing is known, as behind a socket, can clear an upstream as others do.
func TestUnknownClientsClearAnUpstream(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1", "b:1")
		f, unknown := s.Fixed[0].Failures, netip.Prefix{}
		opens := func() {
			c := s.candidates()
			defer c.Close()
			chosen := c.Reserve(s.Fixed[0])
			s.w.Answered(chosen, unknown, time.Millisecond)
			s.end(chosen)
		}
		for i := 0; i < 100 && !f.doubt.is; i++ {
			opens()
			w.WasReset(f, unknown)
			time.Sleep(failDuration / 10)
		}
		w.expectDoubtful("after resets", "a:1")
		time.Sleep(failDuration << mostDoublings)
		for range 2 {
			opens()
			time.Sleep(2 * AtOnce)
		}
		w.expectDoubtful("after tunnels that were kept")
	})
}
