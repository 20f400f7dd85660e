package relay

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Relays are opened and ended in all ways at random. That nothing is left is
// checked by the recorder of each, and for goroutines by TestMain.
func TestRelaysComeAndGo(t *testing.T) {
	const atATime = 100
	total := amount(600, 200)
	all := openers(t)
	for name, run := range implementations {
		t.Run(name, func(t *testing.T) {
			slots := make(chan struct{}, atATime)
			var wg sync.WaitGroup
			for i := range total {
				slots <- struct{}{}
				random := rand.New(rand.NewPCG(uint64(i), 1))
				kinds := [2]string{allKinds[random.IntN(3)], allKinds[random.IntN(3)]}
				r := newRig(t, run, all[kinds[0]], all[kinds[1]])
				wg.Go(func() {
					defer func() { <-slots }()
					r.live(random)
				})
			}
			wg.Wait()
		})
	}
}

// live runs a relay whose peers do something at random until it is over.
func (r *rig) live(random *rand.Rand) {
	r.onEnded = func(_ Direction, end End) {
		if end.Err != nil {
			r.abort()
		}
	}
	r.begun.Lock()
	r.relay = r.run(r.sides[0], r.sides[1], r.recorder)
	r.running.Store(&r.relay)
	r.begun.Unlock()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.watchCounts(stop) })
	for _, e := range []end{r.client, r.upstream} {
		seed := random.Uint64()
		wg.Go(func() { e.misbehave(rand.New(rand.NewPCG(seed, 2))) })
		wg.Go(func() { e.consume() })
	}
	for range random.IntN(20) {
		r.relay.Wake(Direction(random.IntN(2)))
	}
	if random.IntN(4) == 0 {
		r.relay.Abort()
	}
	r.waitDone()
	close(stop)
	_ = raw(r.client.Conn).Close()
	_ = raw(r.upstream.Conn).Close()
	wg.Wait()
	for d := range Direction(2) {
		if read, taken := r.relay.Counts(d); read != taken {
			r.tb.Errorf("direction %d: %d bytes read, but %d taken at the end", d, read, taken)
		}
	}
}

// misbehave sends something and ends in one of the possible ways.
func (e end) misbehave(random *rand.Rand) {
	block := []byte(message(100_000))
	for range random.IntN(20) {
		_ = e.SetWriteDeadline(time.Now().Add(patience))
		if _, err := e.Write(block[:random.IntN(len(block))]); err != nil {
			break
		}
	}
	switch random.IntN(4) {
	case 0:
		if tcp, ok := raw(e.Conn).(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = raw(e.Conn).Close()
	case 1:
		_ = e.Close()
	default:
		_ = socket{e.Conn}.CloseWrite()
	}
}

// consume reads until there is nothing more.
func (e end) consume() {
	buf := make([]byte, 10_000)
	for {
		_ = e.SetReadDeadline(time.Now().Add(patience))
		if _, err := e.Read(buf); err != nil {
			return
		}
	}
}
