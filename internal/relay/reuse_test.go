package relay

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Relays end while others begin, which get the descriptors and the places that
// have just become free. Each has to carry its own bytes only, whatever is done
// to the one before it.
func TestRelaysDoNotMixUp(t *testing.T) {
	const atATime = 8
	each := amount(250, 50)
	for name := range implementations {
		t.Run(name, func(t *testing.T) {
			all := combinationsOf(t, name)
			c := newCrowd(t, 0)
			for i := range atATime {
				c.add("", func(m *member) {
					random := rand.New(rand.NewPCG(uint64(i), 7))
					var before Relay
					for n := range each {
						comb := all[random.IntN(len(all))]
						visit := fmt.Sprintf("%s/worker %d, relay %d", comb.name, i, n)
						before = m.visit(visit, comb, random, before)
					}
				})
			}
			c.wait()
		})
	}
}

// visit has a relay carry something that no other one carries, and ends it in
// an orderly way or not. It returns the relay for the next visit to meddle with.
func (m *member) visit(name string, comb combination, random *rand.Rand, before Relay) Relay {
	m.Helper()
	own := &member{TB: m.TB, name: name}
	defer own.leave()
	r := comb.rig(own)
	r.onEnded = func(_ Direction, end End) {
		if end.Err != nil {
			r.abort()
		}
	}
	orderly := random.IntN(2) == 0
	var loads [2]load
	var peers sync.WaitGroup
	r.start()
	for d := range Direction(2) {
		l := &loads[d]
		l.way, l.random = r.way(d), rand.New(rand.NewPCG(random.Uint64(), uint64(d)))
		l.sent = randomText(l.random, 1+l.random.IntN(30_000))
		peers.Go(func() { l.send(orderly) })
		peers.Go(l.receive)
	}
	meddle(before, random)
	if !orderly {
		r.cut(random)
	}
	peers.Wait()
	r.waitDone()
	for i := range loads {
		loads[i].check(orderly)
	}
	return r.relay
}

// load is what a relay carries in one direction.
type load struct {
	way

	random *rand.Rand
	sent   string
	got    string
	err    error // of receiving
}

func (l *load) send(orderly bool) {
	_ = l.from.SetWriteDeadline(time.Now().Add(patience))
	for left := l.sent; left != ""; {
		n := 1 + l.random.IntN(len(left))
		if _, err := io.WriteString(l.from, left[:n]); err != nil {
			if orderly {
				l.tb.Errorf("sending: %v", err)
			}
			return
		}
		left = left[n:]
	}
	if orderly {
		l.from.closeWrite()
	}
}

func (l *load) receive() {
	_ = l.to.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(l.to)
	l.got, l.err = string(got), err
}

func (l *load) check(orderly bool) {
	l.tb.Helper()
	switch {
	case !strings.HasPrefix(l.sent, l.got):
		l.tb.Errorf("direction %d: got %d bytes that are not the %d of this relay", l.d, len(l.got), len(l.sent))
	case !orderly:
	case l.err != nil || len(l.got) < len(l.sent):
		l.tb.Errorf("direction %d: %d bytes instead of %d, and error %v", l.d, len(l.got), len(l.sent), l.err)
	default:
		l.expectEnded(l.d, End{})
		l.expectAllTaken(l.d, uint64(len(l.sent)))
	}
}

// cut ends a relay at some moment.
func (r *rig) cut(random *rand.Rand) {
	time.Sleep(time.Duration(random.Int64N(1e6)))
	if random.IntN(3) == 0 {
		r.relay.Abort()
		return
	}
	for _, d := range random.Perm(2) {
		peer := raw(r.way(Direction(d)).from.Conn)
		if tcp, ok := peer.(*net.TCPConn); ok && random.IntN(2) == 0 {
			_ = tcp.SetLinger(0)
		}
		_ = peer.Close()
		time.Sleep(time.Duration(random.Int64N(1e6)))
	}
}

// meddle does what an owner may do to a relay that has ended, and which must
// not have an effect on any other.
func meddle(ended Relay, random *rand.Rand) {
	if ended == nil {
		return
	}
	for range random.IntN(10) {
		d := Direction(random.IntN(2))
		ended.Wake(d)
		_ = ended.Backlog(d)
		if random.IntN(2) == 0 {
			ended.Abort()
		}
	}
}

func randomText(random *rand.Rand, n int) string {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		x := random.Uint64()
		b = append(b, byte(x), byte(x>>8), byte(x>>16), byte(x>>24), byte(x>>32), byte(x>>40), byte(x>>48), byte(x>>56))
	}
	return string(b[:n])
}
