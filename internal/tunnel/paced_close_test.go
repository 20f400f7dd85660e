package tunnel

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// pacedTunnels makes tunnels that can only be told apart; the first one was
// active last.
func pacedTunnels(n int) []*Tunnel {
	tunnels := make([]*Tunnel, n)
	for i := range tunnels {
		tunnels[i] = registered(NewRegistry(nil))
		tunnels[i].ID = fmt.Sprint(i)
		tunnels[i].active.Store(int64(-i))
	}
	return tunnels
}

// killedAll has each tunnel end when it is its turn.
func killedAll(*Tunnel) (Ending, bool) { return Ending{Reason: Killed, Code: 1001}, true }

func TestTunnelsEndEvenlyAndIdleOnesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60
		live, began := NewRegistry(nil), time.Now()
		ends := make(chan *Tunnel, n)
		tunnels := pacedTunnels(n)
		for _, held := range tunnels {
			held.relay = &toldRelay{told: func() { ends <- held }}
		}
		live.EndOneByOne(tunnels, n*time.Second, killedAll)
		for i := n - 1; i >= 0; i-- {
			ended := <-ends
			if ended.ID != fmt.Sprint(i) {
				t.Errorf("tunnel %s ends when it is the turn of %d", ended.ID, i)
			}
			// Its part of the time is a second long.
			from := time.Duration(n-1-i) * time.Second
			if at := time.Since(began); at < from || at > from+time.Second {
				t.Errorf("tunnel %d ends after %v, want a moment in the second from %v on", i, at, from)
			}
		}
	})
}

func TestPaceDoesNotWaitForTunnelsThatHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnels, began := pacedTunnels(100), time.Now()
		for _, held := range tunnels[:99] { // the most active one is left
			close(held.done)
		}
		tunnels[0], tunnels[99] = tunnels[99], tunnels[0]
		p := pacedClose{tunnels: tunnels, period: time.Hour, end: func(*Tunnel) {}}
		p.run(nil)
		if took := time.Since(began); took > time.Hour/100 {
			t.Errorf("took %v, want the part of the first one at most", took)
		}
	})
}

func TestPaceAsksBeforeEachEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended []string
		p := pacedClose{
			tunnels: pacedTunnels(4),
			period:  time.Minute,
			wanted:  func(t *Tunnel) bool { return t.ID != "1" },
			end:     func(t *Tunnel) { ended = append(ended, t.ID) },
		}
		p.run(nil)
		if want := []string{"0", "2", "3"}; !slices.Equal(ended, want) {
			t.Errorf("tunnels %v have ended, want %v", ended, want)
		}
	})
}

func TestPaceStopsWhenTheProcessExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, tunnels := NewRegistry(nil), pacedTunnels(2)
		for _, held := range tunnels {
			held.relay = &toldRelay{told: func() { t.Error("a tunnel was ended at the old pace") }}
		}
		live.EndOneByOne(tunnels, time.Hour, killedAll)
		<-live.ShutDown()
		synctest.Wait()
		// The bubble ends only if nobody waits any more.
	})
}
