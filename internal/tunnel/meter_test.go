package tunnel

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// recorder adds up what a meter is told. All tunnels of tests in memory have one.
type recorder struct {
	mu       sync.Mutex
	sum      Movement // Active is the last one
	told     int
	pinged   []Peer
	ponged   []time.Duration
	timeouts []Peer
}

func (r *recorder) Moved(m Movement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told++
	r.sum.BytesIn += m.BytesIn
	r.sum.BytesOut += m.BytesOut
	r.sum.MessagesIn += m.MessagesIn
	r.sum.MessagesOut += m.MessagesOut
	for d := range m.Buffered {
		r.sum.Buffered[d] += m.Buffered[d]
		r.sum.Stalled[d] += m.Stalled[d]
	}
	if m.WasActive != r.sum.Active {
		r.sum.Buffered[0] = -1 // found at the end
	}
	r.sum.Active = m.Active
}

func (r *recorder) Pinged(p Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pinged = append(r.pinged, p)
}

func (r *recorder) Ponged(_ Peer, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ponged = append(r.ponged, after)
}

func (r *recorder) PingTimedOut(p Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timeouts = append(r.timeouts, p)
}

// now is what it has been told so far.
func (r *recorder) now() Movement {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sum
}

// calls is how often it was told that something has moved.
func (r *recorder) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// expectMetered checks, at the end of a tunnel, that its meter was told all of it once.
func (m *memoryTunnel) expectMetered() {
	m.t.Helper()
	want := Movement{Traffic: m.outcome().Traffic}
	if got := m.meter.now(); got != want {
		m.t.Errorf("the meter was told %+v, want %+v", got, want)
	}
}

func TestMeterIsAtMostASecondOld(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		var want Traffic
		for range 5 {
			for range 20 {
				m.client.send(m.client.frame(testbed.Text, "word"))
				m.upstream.in.forget()
				want.BytesIn, want.MessagesIn = want.BytesIn+10, want.MessagesIn+1
			}
			before := m.meter.calls()
			time.Sleep(SweepInterval)
			synctest.Wait()
			if got := m.meter.now(); got.Traffic != want || got.Active < time.Now().Unix()-1 {
				t.Errorf("the meter knows %+v, want %+v, and at %d", got, want, time.Now().Unix())
			}
			if told := m.meter.calls() - before; told != 1 {
				t.Errorf("it was told %d times in a second, want once", told)
			}
		}
		before := m.meter.calls()
		time.Sleep(time.Minute)
		if m.meter.calls() != before {
			t.Error("it was told of a tunnel in which nothing happens")
		}
	})
}

func TestMeterKnowsWhatWaits(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.client.in.room = 100
		m.upstream.send(m.upstream.frame(testbed.Binary, strings.Repeat("x", 1000)))
		time.Sleep(3 * SweepInterval)
		synctest.Wait()
		if got := m.meter.now(); got.Buffered[1] == 0 || got.Stalled != [2]int{0, 1} {
			t.Errorf("while the client takes nothing, the meter knows %+v", got)
		}
		m.others.Go(m.client.listen)
		time.Sleep(3 * SweepInterval)
		synctest.Wait()
		if got := m.meter.now(); got.Buffered != [2]int{} || got.Stalled != [2]int{} || got.MessagesOut != 1 {
			t.Errorf("when it has taken all, the meter knows %+v", got)
		}
	})
}

// TestMeterKnowsAllOfADirectionThatHasEnded has a client end its stream while its last
// words wait, and the upstream go on.
func TestMeterKnowsAllOfADirectionThatHasEnded(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.upstream.in.room = 10
		words := m.client.frame(testbed.Binary, strings.Repeat("x", 100))
		m.others.Go(func() { m.client.send(words); _ = m.client.CloseWrite() })
		time.Sleep(3 * SweepInterval / 2)
		if got := m.meter.now(); got.Buffered[0] == 0 {
			t.Errorf("while the upstream takes nothing, the meter knows %+v", got)
		}
		for !m.upstream.in.hasEnded() {
			m.upstream.in.drop(10)
			synctest.Wait()
		}
		time.Sleep(2 * SweepInterval)
		want := Traffic{BytesIn: uint64(len(words)), MessagesIn: 1}
		if got := m.meter.now(); got.Buffered != [2]int{} || got.Traffic != want {
			t.Errorf("when it has taken all, the meter knows %+v, want %+v", got, want)
		}
	})
}

// TestMeterKnowsRoundTrips has the client answer late, and more than once.
func TestMeterKnowsRoundTrips(t *testing.T) {
	inMemory(t, Options{Ping: 10 * time.Second}, func(m *memoryTunnel) {
		m.pass(10 * time.Second)
		ping := m.client.expectPing()
		time.Sleep(40 * time.Millisecond)
		for range 3 {
			m.client.send(m.client.pong(ping))
		}
		synctest.Wait()
		if len(m.meter.pinged) != 2 || len(m.meter.ponged) != 1 || m.meter.ponged[0] < 40*time.Millisecond || m.meter.ponged[0] > time.Second {
			t.Errorf("pinged %v, ponged after %v; want both, and one of 40 ms", m.meter.pinged, m.meter.ponged)
		}
		if got := m.meter.now(); got.BytesIn != 0 {
			t.Errorf("%d bytes of the client are told, which are pongs to pings of ours", got.BytesIn)
		}
	})
}

func TestMeterKnowsWhoWasLost(t *testing.T) {
	inMemory(t, pinging, func(m *memoryTunnel) {
		m.others.Go(m.upstream.listen)
		m.expectReason(PingTimeout)
		if len(m.meter.timeouts) != 1 {
			t.Errorf("%v are told as lost, want one", m.meter.timeouts)
		}
	})
}
