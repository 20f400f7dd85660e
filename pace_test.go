package websocketproxy

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// pacedTunnels makes tunnels that can only be told apart; the first one was
// active last.
func pacedTunnels(n int) []*tunnel {
	tunnels := make([]*tunnel, n)
	for i := range tunnels {
		tunnels[i] = registered(newRegistry(nil))
		tunnels[i].id = fmt.Sprint(i)
		tunnels[i].active.Store(int64(-i))
	}
	return tunnels
}

// killedAll has each tunnel end when it is its turn.
func killedAll(*tunnel) (ending, bool) { return ending{why: killed, code: 1001}, true }

func TestTunnelsEndEvenlyAndIdleOnesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60
		live, began := newRegistry(nil), time.Now()
		ends := make(chan *tunnel, n)
		tunnels := pacedTunnels(n)
		for _, held := range tunnels {
			held.relay = &toldRelay{told: func() { ends <- held }}
		}
		live.endOneByOne(tunnels, n*time.Second, killedAll)
		for i := n - 1; i >= 0; i-- {
			ended := <-ends
			if ended.id != fmt.Sprint(i) {
				t.Errorf("tunnel %s ends when it is the turn of %d", ended.id, i)
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
		p := paced{tunnels: tunnels, period: time.Hour, end: func(*tunnel) {}}
		p.run(nil)
		if took := time.Since(began); took > time.Hour/100 {
			t.Errorf("took %v, want the part of the first one at most", took)
		}
	})
}

func TestPaceAsksBeforeEachEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended []string
		p := paced{
			tunnels: pacedTunnels(4),
			period:  time.Minute,
			wanted:  func(t *tunnel) bool { return t.id != "1" },
			end:     func(t *tunnel) { ended = append(ended, t.id) },
		}
		p.run(nil)
		if want := []string{"0", "2", "3"}; !slices.Equal(ended, want) {
			t.Errorf("tunnels %v have ended, want %v", ended, want)
		}
	})
}

func TestPaceStopsWhenTheProcessExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, tunnels := newRegistry(nil), pacedTunnels(2)
		for _, held := range tunnels {
			held.relay = &toldRelay{told: func() { t.Error("a tunnel was ended at the old pace") }}
		}
		live.endOneByOne(tunnels, time.Hour, killedAll)
		<-live.shutDown()
		synctest.Wait()
		// The bubble ends only if nobody waits any more.
	})
}
