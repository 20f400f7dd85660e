package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // most of them wait
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(
		"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay.(*poller).run"))
}

// implementations are the relays that have to pass this suite.
var implementations = map[string]func(client, upstream Side, hooks Hooks) Relay{
	"served": func(client, upstream Side, hooks Hooks) Relay {
		if s, ok := client.Conn.(socket); ok {
			client.Conn = awaited{s}
		}
		r, serve := StartServed(client, upstream, hooks)
		go serve()
		return r
	},
}

// patience is how long anything may take that is about to happen.
const patience = time.Minute

// opener opens a connection and returns both its ends.
type opener func(tb testing.TB) (peer, ours net.Conn)

// openers returns one for each kind of connection.
func openers(tb testing.TB) map[string]opener {
	tb.Helper()
	certs := testbed.NewCerts(tb)
	return map[string]opener{
		"tcp":  openTCP,
		"unix": openUnix,
		"tls":  func(tb testing.TB) (peer, ours net.Conn) { tb.Helper(); return openTLS(tb, certs) },
	}
}

func openTCP(tb testing.TB) (peer, ours net.Conn) {
	tb.Helper()
	return open(tb, "tcp", "127.0.0.1:0")
}

func openUnix(tb testing.TB) (peer, ours net.Conn) {
	tb.Helper()
	return open(tb, "unix", filepath.Join(tb.TempDir(), "s"))
}

func openTLS(tb testing.TB, certs *testbed.Certs) (peer, ours net.Conn) {
	tb.Helper()
	rawPeer, rawOurs := openTCP(tb)
	cfg := certs.ClientConfig()
	cfg.ServerName = "localhost"
	client, server := tls.Client(rawPeer, cfg), tls.Server(rawOurs, certs.ServerConfig())
	shakeHands(tb, client, server)
	return client, server
}

func shakeHands(tb testing.TB, client, server *tls.Conn) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- client.HandshakeContext(ctx) }()
	if err := errors.Join(server.HandshakeContext(ctx), <-failed); err != nil {
		tb.Fatalf("TLS handshake: %v", err)
	}
}

func open(tb testing.TB, network, addr string) (peer, ours net.Conn) {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), network, addr)
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	defer ln.Close()
	if l, ok := ln.(interface{ SetDeadline(t time.Time) error }); ok {
		_ = l.SetDeadline(time.Now().Add(patience))
	}
	peer, err = (&net.Dialer{Timeout: patience}).DialContext(tb.Context(), network, ln.Addr().String())
	if err != nil {
		tb.Fatalf("dialing: %v", err)
	}
	for {
		ours, err = ln.Accept()
		if err != nil {
			tb.Fatalf("accepting: %v", err)
		}
		if network == "unix" || ours.RemoteAddr().String() == peer.LocalAddr().String() {
			return peer, ours
		}
		_ = ours.Close() // somebody who meant a former owner of the port
	}
}

// raw is the socket of a connection.
func raw(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if v, ok := c.(*valve); ok {
		return v.Conn
	}
	return c
}

// socket makes a Conn of a net.Conn.
type socket struct{ net.Conn }

func (s socket) CloseWrite() error {
	half, ok := s.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func (s socket) Abort() { _ = raw(s.Conn).Close() }

// awaited is a socket that is waited for as if it were a stream.
type awaited struct{ socket }

func (awaited) Await() error { return nil } // the read that follows waits

// rig is a relay between two peers that are in the hands of the test.
type rig struct {
	*recorder

	client, upstream end
	sides            [2]Side // client, upstream
	run              func(client, upstream Side, hooks Hooks) Relay
	relay            Relay
}

// way is a rig seen in one of its directions.
type way struct {
	*rig

	d        Direction
	from, to end
}

var (
	allKinds = []string{"tcp", "tls", "unix"}
	// Unix sockets have no reset.
	resettable = []string{"tcp", "tls"}
)

// everywhere runs a test with each implementation over some kinds of
// connection. The relay it gets has to be started.
func everywhere(t *testing.T, kinds []string, test func(t *testing.T, r *rig)) {
	t.Helper()
	oneByOne(t, kinds, func(t *testing.T, open func() *rig) {
		t.Parallel() // to the others here, as most of the time is waited
		test(t, open())
	})
}

// oneByOne is everywhere for what concerns the whole process.
func oneByOne(t *testing.T, kinds []string, test func(t *testing.T, open func() *rig)) {
	t.Helper()
	all := openers(t)
	for name, run := range implementations {
		for _, kind := range kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				test(t, func() *rig { return newRig(t, run, all[kind], all[kind]) })
			})
		}
	}
}

var directions = []string{"client to upstream", "upstream to client"}

// eachWay is everywhere, in each direction.
func eachWay(t *testing.T, kinds []string, test func(t *testing.T, w way)) {
	t.Helper()
	for d, name := range directions {
		t.Run(name, func(t *testing.T) {
			everywhere(t, kinds, func(t *testing.T, r *rig) {
				test(t, r.way(Direction(d)))
			})
		})
	}
}

func (r *rig) way(d Direction) way {
	if d == ClientToUpstream {
		return way{rig: r, d: d, from: r.client, to: r.upstream}
	}
	return way{rig: r, d: d, from: r.upstream, to: r.client}
}

// glue sets what was read from the source together with the handshake.
func (w way) glue(p string) {
	w.sides[w.d].Buffered = []byte(p)
}

func newRig(
	tb testing.TB, run func(client, upstream Side, hooks Hooks) Relay, openClient, openUpstream opener,
) *rig {
	tb.Helper()
	r := &rig{run: run, recorder: newRecorder(tb)}
	var ours [2]net.Conn
	r.client.tb, r.upstream.tb = tb, tb
	r.client.Conn, ours[0] = openClient(tb)
	r.upstream.Conn, ours[1] = openUpstream(tb)
	for i, c := range ours {
		r.sides[i].Conn = socket{c}
		r.recorder.conns = append(r.recorder.conns, c)
	}
	return r
}

// start starts the relay and, when the test is over, ends it.
func (r *rig) start() {
	r.tb.Helper()
	r.begun.Lock()
	r.relay = r.run(r.sides[0], r.sides[1], r.recorder)
	r.running.Store(&r.relay)
	r.begun.Unlock()
	r.tb.Cleanup(func() {
		r.relay.Abort()
		r.waitDone()
		_ = raw(r.client.Conn).Close()
		_ = raw(r.upstream.Conn).Close()
	})
}

// smallBuffers makes the kernel hold little, so that a stall shows soon. Much
// smaller ones would make loopback crawl.
func (r *rig) smallBuffers() {
	for _, c := range append(r.recorder.conns, r.client.Conn, r.upstream.Conn) {
		if s, ok := raw(c).(interface {
			SetReadBuffer(bytes int) error
			SetWriteBuffer(bytes int) error
		}); ok {
			_ = s.SetReadBuffer(256 << 10)
			_ = s.SetWriteBuffer(256 << 10)
		}
	}
}

// recorder is the Hooks of a relay under test. It checks what holds for all
// hooks and remembers how the directions ended.
type recorder struct {
	tb    testing.TB
	conns []net.Conn // ours
	begun sync.Mutex // held until the relay is there
	done  chan struct{}

	// inspect replaces the verdict, which is to pass everything. This, skip,
	// resets and onEnded have to be set before the relay starts.
	inspect func(d Direction, p []byte) Verdict
	skip    func(d Direction, n int)
	resets  func(d Direction, end End) bool
	onEnded func(d Direction, end End)
	// settled is set when the relay is to stay with the poller that has it.
	settled atomic.Bool

	busy    [2]atomic.Bool
	running atomic.Pointer[Relay] // the relay when it is there

	mu   sync.Mutex // guards what follows
	ends [2][]End
	shut [2]bool
	over bool
}

func newRecorder(tb testing.TB) *recorder {
	tb.Helper()
	return &recorder{tb: tb, done: make(chan struct{})}
}

func (h *recorder) Inspect(d Direction, p []byte) Verdict {
	if h.busy[d].Swap(true) {
		h.tb.Errorf("direction %d is inspected twice at a time", d)
	}
	defer h.busy[d].Store(false)
	h.expectUnderWay(d, len(p))
	h.mu.Lock()
	if h.over || h.shut[d] || len(h.ends[d]) > 0 {
		h.tb.Errorf("direction %d is inspected after its end", d)
	}
	h.mu.Unlock()
	if h.inspect == nil {
		return Verdict{Pass: len(p)}
	}
	v := h.inspect(d, p)
	if v.Shut {
		h.mu.Lock()
		h.shut[d] = true
		h.mu.Unlock()
	}
	return v
}

// Skip checks that no more is skipped than was allowed.
func (h *recorder) Skip(d Direction, n int) {
	if h.busy[d].Swap(true) {
		h.tb.Errorf("direction %d is inspected while bytes are skipped", d)
	}
	defer h.busy[d].Store(false)
	h.expectUnderWay(d, n)
	if h.skip == nil || n <= 0 {
		h.tb.Errorf("%d bytes are skipped", n)
		return
	}
	h.skip(d, n)
}

// expectUnderWay checks that the counts tell of bytes that the owner is about to learn of.
func (h *recorder) expectUnderWay(d Direction, n int) {
	if r := h.running.Load(); r != nil && n > 0 {
		if read, taken := (*r).Counts(d); read == taken {
			h.tb.Errorf("%d bytes of direction %d are shown or skipped, and none is under way", n, d)
		}
	}
}

func (h *recorder) Resets(d Direction, end End) bool {
	return h.resets != nil && h.resets(d, end)
}

func (h *recorder) Ended(d Direction, end End) {
	h.mu.Lock()
	h.ends[d] = append(h.ends[d], end)
	if n := len(h.ends[d]); n > 1 {
		h.tb.Errorf("direction %d has ended %d times: %v", d, n, h.ends[d])
	}
	if h.over {
		h.tb.Errorf("direction %d has ended after Done", d)
	}
	h.mu.Unlock()
	if h.onEnded != nil {
		h.onEnded(d, end)
	}
}

func (h *recorder) Done() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		h.tb.Error("Done was called twice")
		return
	}
	h.over = true
	for d := range h.ends {
		if len(h.ends[d]) == 0 && !h.shut[d] {
			h.tb.Errorf("Done was called before direction %d has ended", d)
		}
	}
	for i, c := range h.conns {
		if err := c.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			h.tb.Errorf("connection %d is open when Done is called: %v", i, err)
		}
	}
	close(h.done)
}

func (h *recorder) waitDone() {
	h.tb.Helper()
	select {
	case <-h.done:
	case <-time.After(patience):
		h.tb.Fatal("Done was never called")
	}
}

// waitEnded waits for the end of a direction.
func (h *recorder) waitEnded(d Direction) End {
	h.tb.Helper()
	var end End
	eventually(h.tb, "a direction ends", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.ends[d]) == 0 {
			return false
		}
		end = h.ends[d][0]
		return true
	})
	return end
}

// hasEnded tells whether Ended was called.
func (h *recorder) hasEnded(d Direction) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ends[d]) > 0
}

// eventually waits for something that another goroutine is about to do.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for limit := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatalf("never happened: %s", what)
		}
	}
}

// waitTaken waits until n bytes have been read and taken.
func (r *rig) waitTaken(d Direction, n uint64) {
	r.tb.Helper()
	eventually(r.tb, "all is taken", func() bool {
		read, taken := r.relay.Counts(d)
		return read == n && taken == n
	})
}

// expectAllTaken checks the counts of a relay that is done.
func (r *rig) expectAllTaken(d Direction, want uint64) {
	r.tb.Helper()
	if read, taken := r.relay.Counts(d); read != want || taken != want {
		r.tb.Errorf("direction %d: %d bytes read and %d taken, want %d", d, read, taken, want)
	}
}

// end is a peer's end of a connection.
type end struct {
	net.Conn

	tb testing.TB
}

func (e end) send(p string) {
	e.tb.Helper()
	_ = e.SetWriteDeadline(time.Now().Add(patience))
	if _, err := e.Write([]byte(p)); err != nil {
		e.tb.Errorf("sending: %v", err)
	}
}

func (e end) expect(want string) {
	e.tb.Helper()
	if got := e.read(len(want)); got != want {
		e.tb.Fatalf("got %.80q, want %.80q", got, want)
	}
}

func (e end) read(n int) string {
	e.tb.Helper()
	_ = e.SetReadDeadline(time.Now().Add(patience))
	p := make([]byte, n)
	if got, err := io.ReadFull(e, p); err != nil {
		e.tb.Fatalf("got %.80q and error %v, want %d bytes", p[:got], err, n)
	}
	return string(p)
}

// expectEnd checks that the peer has nothing more to say.
func (e end) expectEnd() {
	e.tb.Helper()
	_ = e.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(e)
	if len(rest) > 0 || err != nil {
		e.tb.Fatalf("got %.80q and error %v, want a clean end", rest, err)
	}
}

func (e end) expectEcho(with end, p string) {
	e.tb.Helper()
	e.send(p)
	with.expect(p)
	with.send(p)
	e.expect(p)
}

func (e end) closeWrite() {
	e.tb.Helper()
	if err := (socket{e.Conn}).CloseWrite(); err != nil {
		e.tb.Errorf("half-closing: %v", err)
	}
}

// reset closes the socket by RST.
func (e end) reset() {
	e.tb.Helper()
	tcp, ok := raw(e.Conn).(*net.TCPConn)
	if !ok {
		e.tb.Fatalf("%T has no reset", e.Conn)
	}
	if err := errors.Join(tcp.SetLinger(0), tcp.Close()); err != nil {
		e.tb.Errorf("resetting: %v", err)
	}
}

// message is n bytes that do not repeat soon.
func message(n int) string {
	b := make([]byte, 0, n+8)
	for i := uint32(1); len(b) < n; i++ {
		x := i * 2654435761 // Knuth's multiplicative hash
		b = append(b, byte(x), byte(x>>8), byte(x>>16), byte(x>>24))
	}
	return string(bytes.Clone(b[:n]))
}
