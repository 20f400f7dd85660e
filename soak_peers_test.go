package websocketproxy

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// floodFrames is how many frames come from an upstream that is asked to flood:
// more than is taken while nobody reads.
const floodFrames = 40

// obliging is an upstream that echoes, or first floods its client if that is
// what the path asks for.
func obliging(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	if c.AcceptHandshake().URL.Path == "/flood" {
		for i := range floodFrames {
			c.WriteFrame(testbed.NewFrame(testbed.Binary, floodPayload(i)))
		}
	}
	for {
		f := c.ReadFrame()
		c.WriteFrame(f)
		if f.Opcode == testbed.Close {
			return
		}
	}
}

func floodPayload(i int) string {
	return strings.Repeat(string(rune('a'+i%26)), 70_000+i)
}

// visitor is a client that knows what it has to get.
type visitor struct {
	*testbed.Client

	tb      testing.TB
	random  *rand.Rand
	longest time.Duration // of its pauses
}

// converse does some of what clients do.
func (v *visitor) converse() {
	if v.random.IntN(6) == 0 {
		v.Handshake("/flood")
		v.pause()
		if v.random.IntN(3) == 0 {
			v.expectFlood(v.random.IntN(floodFrames))
			v.Reset()
			return
		}
		v.expectFlood(floodFrames)
	} else {
		v.Handshake("/")
	}
	for range v.random.IntN(4) {
		switch v.random.IntN(6) {
		case 0:
			v.sendInPieces()
		case 1:
			v.sendAhead()
		default:
			v.chat()
		}
	}
	v.leave()
}

func (v *visitor) expectFlood(frames int) {
	for i := range frames {
		v.ExpectFrame(testbed.Binary, floodPayload(i))
	}
}

func (v *visitor) chat() {
	for range 1 + v.random.IntN(5) {
		v.Echo(v.text())
		v.pause()
	}
}

// text is short mostly.
func (v *visitor) text() string {
	size := []int{100, 100, 100, 1000, 20_000, 300_000}[v.random.IntN(6)]
	return strings.Repeat(string(rune('A'+v.random.IntN(26))), 1+v.random.IntN(size))
}

// sendInPieces stops inside of a frame.
func (v *visitor) sendInPieces() {
	text := v.text()
	raw := string(testbed.NewFrame(testbed.Text, text).Bytes(true))
	n := v.random.IntN(len(raw))
	v.Send(raw[:n])
	v.pause()
	v.Send(raw[n:])
	v.ExpectFrame(testbed.Text, text)
}

// sendAhead does not wait for the answer to one message before the next.
func (v *visitor) sendAhead() {
	texts := make([]string, 1+v.random.IntN(30))
	for i := range texts {
		texts[i] = v.text()
	}
	wait := testbed.Go(v.tb, func(testing.TB) {
		for _, text := range texts {
			v.WriteFrame(testbed.NewFrame(testbed.Text, text))
		}
	})
	for _, text := range texts {
		v.ExpectFrame(testbed.Text, text)
	}
	wait()
}

// pause is short mostly.
func (v *visitor) pause() {
	longest := v.longest / 20
	if v.random.IntN(10) == 0 {
		longest = v.longest
	}
	time.Sleep(time.Duration(v.random.Int64N(int64(longest))))
}

func (v *visitor) leave() {
	switch v.random.IntN(5) {
	case 0:
		v.Reset()
	case 1:
		v.Send(string(testbed.NewFrame(testbed.Text, "half").Bytes(true)[:6]))
		v.pause()
		v.Reset()
	case 2:
		v.CloseWrite()
		v.ExpectEOF()
	case 3:
		v.CloseHandshake(1000)
	case 4:
		// Closes without a word.
	}
}

// unpredictable is an upstream that ends its connections in some way.
func unpredictable(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	c.AcceptHandshake()
	misbehave(c, rand.New(rand.NewPCG(rand.Uint64(), 6)))
}

// misbehave sends something and ends in some way. That the other side may do so
// at any moment is why errors are of no interest here.
func misbehave(c *testbed.Conn, random *rand.Rand) {
	for range random.IntN(10) {
		f := testbed.NewFrame(testbed.Binary, strings.Repeat("x", random.IntN(50_000)))
		raw := f.Bytes(random.IntN(2) == 0)
		if random.IntN(20) == 0 {
			raw = raw[:len(raw)/2] // leaves the peer inside of a frame
		}
		if _, err := c.Write(raw); err != nil {
			return
		}
	}
	buf := make([]byte, random.IntN(100_000)+1)
	_ = c.NetConn().SetReadDeadline(time.Now().Add(time.Duration(random.IntN(300)) * time.Millisecond))
	_, _ = c.NetConn().Read(buf)
	switch random.IntN(5) {
	case 0:
		if network := c.NetConn().LocalAddr().Network(); network == "tcp" {
			c.Reset()
		}
	case 1:
		half, _ := c.NetConn().(interface{ CloseWrite() error })
		_ = half.CloseWrite()
		drain(c)
	case 2:
		_, _ = c.Write(testbed.NewClose(1000, "").Bytes(true))
		drain(c)
	case 3:
		drain(c) // until the proxy ends it
	}
}

func drain(c *testbed.Conn) {
	buf := make([]byte, 10_000)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}
