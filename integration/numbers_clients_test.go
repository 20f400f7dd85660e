package integration

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// obedient is an upstream that echoes, or ends as its client asks: by a Close with a
// status, a reset, or without a word.
func obedient(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	c.AcceptHandshake()
	for {
		f := c.ReadFrame()
		word, status, _ := strings.Cut(string(f.Payload), " ")
		switch word {
		case "!close":
			code, _ := strconv.Atoi(status)
			c.WriteFrame(testbed.NewClose(uint16(code), ""))
			continue // until the answer comes, and is answered once more
		case "!reset":
			c.Reset()
			return
		case "!end":
			return
		}
		c.WriteFrame(f)
		if f.Opcode == testbed.Close {
			return
		}
	}
}

// line is the client's end of a tunnel. It answers a Close at any time.
type line struct {
	conn   net.Conn
	echoed chan struct{}
	over   chan struct{} // closed when it has ended
}

func (l *line) read(in *bufio.Reader) {
	defer close(l.over)
	defer l.conn.Close()
	for {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		if f.Opcode == testbed.Close {
			_, _ = l.conn.Write(f.Bytes(true))
			continue
		}
		select {
		case l.echoed <- struct{}{}:
		default:
		}
	}
}

func (l *line) isOver() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

func (l *line) send(f testbed.Frame) {
	_, _ = l.conn.Write(f.Bytes(true)) // an end shows in read
}

// ask sends a message and waits for its echo, or the end.
func (l *line) ask(tb testing.TB, text string) (echoed bool) {
	tb.Helper()
	l.send(testbed.NewFrame(testbed.Text, text))
	select {
	case <-l.echoed:
		return true
	case <-l.over:
	case <-time.After(timeout):
		tb.Errorf("neither an echo nor the end within %v", timeout)
		_ = l.conn.Close()
	}
	return false
}

func (l *line) reset() {
	under := l.conn
	if secured, ok := under.(*tls.Conn); ok {
		under = secured.NetConn()
	}
	if tcp, ok := under.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = under.Close()
}

// closeWrite ends what the client sends.
func (l *line) closeWrite() {
	if half, ok := l.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// leave ends the tunnel in some way, and waits until that has happened.
func (l *line) leave(tb testing.TB, random *rand.Rand) {
	tb.Helper()
	switch random.IntN(12) {
	case 0:
		l.send(testbed.NewClose(1000, ""))
	case 1:
		l.send(testbed.NewClose(0, ""))
	case 2:
		l.send(testbed.NewClose(3001, "done"))
	case 3:
		l.send(testbed.NewClose(4001, ""))
	case 4:
		l.reset()
	case 5:
		_ = l.conn.Close()
	case 6:
		_, _ = l.conn.Write(testbed.NewFrame(testbed.Text, "half").Bytes(true)[:6])
		l.reset()
	case 7:
		l.closeWrite()
	case 8:
		l.send(testbed.NewFrame(testbed.Text, "!close 1011"))
	case 9:
		l.send(testbed.NewFrame(testbed.Text, "!close 4009"))
	case 10:
		l.send(testbed.NewFrame(testbed.Text, "!reset"))
	case 11:
		l.send(testbed.NewFrame(testbed.Text, "!end"))
	}
	select {
	case <-l.over:
	case <-time.After(timeout):
		tb.Errorf("a tunnel that was left has not ended within %v", timeout)
		_ = l.conn.Close()
	}
}

// public is many clients, and what they have met.
type public struct {
	caddy *caddy
	stay  time.Duration // of a client, at most

	// gate is held by a client that does something, so that all can be stopped.
	gate    sync.RWMutex
	leaving context.Context
	leave   context.CancelFunc // has all go
	open    atomic.Int64
	opened  atomic.Int64
	echoed  atomic.Int64 // messages
	refused [600]atomic.Int64
	// slowest is how long the slowest of the last handshakes took.
	slowest atomic.Int64
}

// targets are what clients ask for, and how often.
var targets = []struct {
	often int
	path  string
	field string
}{
	{80, "/chat", "Origin: https://good.example"},
	{5, "/chat", "Origin: https://bad.example"},
	{5, "/small", ""},
	{2, "/dead", ""},
	{2, "/refusing", ""},
	{2, "/brief?exp=100ms", ""},
	{2, "/brief?exp=1", ""},
	{2, "/brief", ""},
}

func pickTarget(random *rand.Rand) (path, field string) {
	n := random.IntN(100)
	for _, t := range targets {
		if n -= t.often; n < 0 {
			return t.path, t.field
		}
	}
	panic("the targets are not a hundred")
}

// come has n clients come and go, until all are to leave.
func (p *public) come(tb testing.TB, n int) (wait func()) {
	tb.Helper()
	var waits []func()
	for i := range n {
		waits = append(waits, testbed.Go(tb, func(tb testing.TB) {
			random := rand.New(rand.NewPCG(uint64(i), 19))
			p.pause(random, p.stay/10, nil)
			for !p.isLeaving() {
				p.visit(tb, random)
			}
		}))
	}
	return func() {
		for _, wait := range waits {
			wait()
		}
	}
}

// count counts tunnels that have been opened.
func (p *public) count(n int) {
	p.opened.Add(int64(n))
	p.open.Add(int64(n))
}

func (p *public) isLeaving() bool {
	return p.leaving.Err() != nil
}

// pause is a part of the longest, cut short by an end or if all are to leave.
func (p *public) pause(random *rand.Rand, longest time.Duration, over <-chan struct{}) {
	select {
	case <-time.After(time.Duration(random.Int64N(int64(longest)))):
	case <-over:
	case <-p.leaving.Done():
	}
}

func (p *public) visit(tb testing.TB, random *rand.Rand) {
	tb.Helper()
	path, field := pickTarget(random)
	p.gate.RLock()
	l := p.call(tb, path, field, random)
	p.gate.RUnlock()
	if l == nil {
		p.pause(random, p.stay/10, nil)
		return
	}
	steps := 1 + random.IntN(5)
	for range steps {
		p.pause(random, p.stay/time.Duration(steps), l.over)
		if l.isOver() || p.isLeaving() {
			break
		}
		p.gate.RLock()
		size := []int{10, 100, 100, 1000, 5000, 70_000}[random.IntN(6)]
		if l.ask(tb, strings.Repeat("m", 1+random.IntN(size))) {
			p.echoed.Add(1)
		}
		p.gate.RUnlock()
	}
	p.gate.RLock()
	defer p.gate.RUnlock()
	l.leave(tb, random)
}

// call opens a tunnel, or returns nil if there is none.
func (p *public) call(tb testing.TB, path, field string, random *rand.Rand) *line {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	began := time.Now()
	var conn net.Conn
	var err error
	if random.IntN(8) == 0 {
		dialer := tls.Dialer{Config: p.caddy.certs.ClientConfig()}
		conn, err = dialer.DialContext(ctx, "tcp", p.caddy.https)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", p.caddy.http)
	}
	if err != nil {
		return nil // a listener that a reload closes resets those who wait
	}
	join := map[bool]string{false: "?", true: "&"}[strings.Contains(path, "?")]
	path = fmt.Sprintf("%s%suser=u%d", path, join, random.IntN(users))
	_ = conn.SetDeadline(time.Now().Add(timeout))
	in := bufio.NewReaderSize(conn, 1024)
	_, _ = conn.Write([]byte(testbed.HandshakeRequest(path, p.caddy.http, cmp.Or(field, "Origin:"))))
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		_ = conn.Close()
		return nil
	}
	took := int64(time.Since(began))
	for was := p.slowest.Load(); took > was && !p.slowest.CompareAndSwap(was, took); was = p.slowest.Load() {
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		p.refused[resp.StatusCode].Add(1)
		_ = resp.Body.Close()
		_ = conn.Close()
		return nil
	}
	_ = conn.SetDeadline(time.Time{})
	l := &line{conn: conn, echoed: make(chan struct{}, 1), over: make(chan struct{})}
	p.count(1)
	go func() {
		l.read(in)
		p.open.Add(-1)
	}()
	return l
}
