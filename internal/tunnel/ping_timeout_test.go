package tunnel

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestPeerThatDoesNotReactIsEnded(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, alive, gone *memoryPeer) {
		m.others.Go(func() { alive.answer() })
		m.pass(10 * time.Second)
		gone.expectPing()
		m.pass(20 * time.Second)
		gone.expectPing()
		m.pass(29 * time.Second)
		gone.expectOpen()
		m.expectReason(PingTimeout)
		m.expectBlamed(source(m.directionFrom(gone)))
		m.expectAge(m.unreacted(gone, 10*time.Second))
		m.expectClose(Proxy, 1001)
	})
}

// unreacted is the age at which a tunnel has ended because a peer has not
// reacted to a ping at the age given.
func (m *memoryTunnel) unreacted(gone *memoryPeer, pinged time.Duration) time.Duration {
	end := pinged + m.options.PingTimeout + lingerTime
	if gone == m.client {
		end += closeAnswerTime
	}
	return end
}

// answer answers pings until the end, and the Close.
func (p *memoryPeer) answer() {
	buf := make([]byte, 1000)
	for {
		n, err := p.Read(buf)
		if err != nil {
			return
		}
		raw := string(buf[:n])
		switch raw[0] {
		case 0x89:
			_, payload, _ := p.pingIn(raw)
			_, _ = p.Write([]byte(p.pong(payload)))
		case 0x88:
			_, _ = p.Write([]byte(p.closeFrame(1001, "")))
		}
	}
}

// Any byte is a reaction, an answer is not required.
func TestPeerThatTalksIsAlive(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		m.others.Go(func() { to.answer() })
		// With a mask that makes no byte of it look like a ping or a Close.
		frame := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 100))
		frame.MaskKey = [4]byte{1, 2, 3, 4}
		whole := string(frame.Bytes(from.masked))
		for i := range 20 {
			time.Sleep(15 * time.Second) // after a ping
			from.send(whole[i : i+1])
		}
		m.expectLive()
		m.expectReason(PingTimeout)
		m.expectAge(310*time.Second + m.options.PingTimeout + closeAnswerTime + lingerTime)
	})
}

func TestPingTimeoutMayBeOff(t *testing.T) {
	inMemory(t, Options{Ping: 10 * time.Second}, func(m *memoryTunnel) {
		m.pass(10 * time.Second)
		for range 20 {
			m.client.expectPing()
			m.upstream.expectPing()
			time.Sleep(10 * time.Second)
		}
		m.expectLive()
	})
}

func TestPingOfTheApplicationCountsForTheTimeout(t *testing.T) {
	for name, payload := range map[string]string{"with payload": "are you there?", "empty": ""} {
		for _, split := range []int{0, 1} {
			t.Run(name, func(t *testing.T) {
				eachPeer(t, pinging, func(m *memoryTunnel, from, gone *memoryPeer) {
					time.Sleep(4 * time.Second)
					ping := from.frame(testbed.Ping, payload)
					from.send(ping[:split])
					_ = gone.has()
					from.send(ping[split:])
					gone.expect(ping)
					m.others.Go(from.answer)
					m.pass(13 * time.Second)
					gone.expectOpen()
					m.expectReason(PingTimeout)
					m.expectBlamed(source(m.directionFrom(gone)))
					m.expectAge(m.unreacted(gone, 4*time.Second))
				})
			})
		}
	}
}

func TestLaterPingsDoNotGiveMoreTime(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, gone *memoryPeer) {
		m.others.Go(func() {
			for ping := from.frame(testbed.Ping, ""); ; time.Sleep(3 * time.Second) {
				if _, err := from.Write([]byte(ping)); err != nil {
					return
				}
			}
		})
		m.others.Go(from.listen)
		m.expectReason(PingTimeout)
		m.expectBlamed(source(m.directionFrom(gone)))
		m.expectAge(m.options.PingTimeout + closeAnswerTime + lingerTime)
	})
}

// An unanswered ping of before does not end the closing handshake of a peer
// that has said Close and waits for the answer.
func TestPeerThatHasSaidCloseNeedNotReact(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		ping := to.frame(testbed.Ping, "")
		bye := from.closeFrame(1000, "")
		from.send(bye)
		to.expect(bye)
		to.send(ping)
		from.expect(ping)
		m.pass(100 * time.Second)
		m.expectLive()
	})
}

// A ping that could not be written has not been got.
func TestPeerThatTakesNothingIsLeftToTheWriteTimeout(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		m.others.Go(from.answer)
		to.in.room = 100
		raw := from.frame(testbed.Binary, strings.Repeat("x", 300))
		from.send(raw)
		m.pass(100 * time.Second)
		m.expectLive()
		got := make([]byte, 1000)
		var all string
		for len(all) < len(raw) {
			n, err := to.Read(got)
			if err != nil {
				t.Fatal(err)
			}
			all += string(got[:n])
			synctest.Wait()
		}
		all += to.has()
		to.in.forget()
		if before, _, _ := to.pingIn(all); before != raw {
			t.Errorf("%q is before the ping, want the message", before)
		}
		// Now it has.
		m.expectReason(PingTimeout)
		m.expectAge(m.unreacted(to, 100*time.Second))
	})
}

// The ping itself may be what does not fit any more.
func TestPingThatIsStuckHasNotBeenGot(t *testing.T) {
	eachPeer(t, Options{Ping: 10 * time.Second, PingTimeout: time.Minute}, func(m *memoryTunnel, from, to *memoryPeer) {
		raw := from.frame(testbed.Binary, strings.Repeat("x", 300))
		to.in.room = len(raw)
		from.send(raw)
		m.pass(30 * time.Second)
		way := &m.inspector.directions[m.directionFrom(from)]
		if got := way.asked.Load(); got != 0 {
			t.Errorf("it is taken for got (%d)", got)
		}
		to.in.forget()
		to.in.end(nil, nil) // wakes the writer
		synctest.Wait()
		if got := way.asked.Load(); got != 1 {
			t.Errorf("it is not taken for got (%d)", got)
		}
	})
}

// Its answer is there, but the other peer's slowness keeps it from being read.
func TestPeerThatIsNotReadIsNotLost(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		to.in.room = 100
		from.out.room = 1 << 20
		m.others.Go(to.talk)
		m.others.Go(from.answer)
		from.send(from.frame(testbed.Binary, strings.Repeat("x", 100_000)))
		m.pass(100 * time.Second)
		m.expectLive()
	})
}

// directionFrom is the direction that p is the source of.
func (m *memoryTunnel) directionFrom(p *memoryPeer) (d relay.Direction) {
	if p == m.upstream {
		d = 1
	}
	return d
}
