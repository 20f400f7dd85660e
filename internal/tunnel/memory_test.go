package tunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// memory is one direction of a connection in memory. Unlike net.Pipe it holds
// some bytes and can end by itself.
type memory struct {
	mu      sync.Mutex
	changed *sync.Cond
	data    []byte
	room    int
	readErr error // what Read returns when data is used up
	sendErr error // what Write returns
	backlog int   // what is told of it
}

func newMemory() *memory {
	m := &memory{room: 4 << 10}
	m.changed = sync.NewCond(&m.mu)
	return m
}

func (m *memory) Read(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.data) == 0 && m.readErr == nil {
		m.changed.Wait()
	}
	if len(m.data) == 0 {
		return 0, m.readErr
	}
	n := copy(p, m.data)
	m.data = m.data[n:]
	m.changed.Broadcast()
	return n, nil
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := 0; ; {
		for m.sendErr == nil && len(m.data) >= m.room {
			m.changed.Wait()
		}
		if m.sendErr != nil {
			return n, m.sendErr
		}
		k := min(len(p)-n, m.room-len(m.data))
		m.data = append(m.data, p[n:n+k]...)
		m.changed.Broadcast()
		if n += k; n == len(p) {
			return n, nil
		}
	}
}

// end makes Read and Write fail from now on. What has been written can still
// be read. The first errors count.
func (m *memory) end(readErr, sendErr error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.readErr == nil {
		m.readErr = readErr
	}
	if m.sendErr == nil {
		m.sendErr = sendErr
	}
	m.changed.Broadcast()
}

// forget drops what has not been read.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = nil
}

// drop drops some of what has not been read, and goes on writing.
func (m *memory) drop(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = m.data[min(n, len(m.data)):]
	m.changed.Broadcast()
}

// held returns what has not been read.
func (m *memory) held() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.data)
}

func (m *memory) hasEnded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.data) == 0 && m.readErr != nil
}

func (m *memory) readError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readErr
}

// memoryConn is an end of a connection in memory.
type memoryConn struct {
	in, out *memory
}

func (c memoryConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c memoryConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c memoryConn) Abort()                      { _ = c.Close() }

func (c memoryConn) CloseWrite() error {
	c.out.end(io.EOF, net.ErrClosed)
	return nil
}

// Backlog implements relay.Backlogged.
func (c memoryConn) Backlog() int { return c.out.backlogged() }

func (m *memory) backlogged() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.backlog
}

// lag has a connection tell a backlog.
func (m *memory) lag(backlog int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backlog = backlog
}

// Reset implements relay.Resettable. What has arrived can still be read.
func (c memoryConn) Reset() { c.out.end(syscall.ECONNRESET, net.ErrClosed) }

func (c memoryConn) Close() error {
	c.in.forget()
	c.in.end(net.ErrClosed, syscall.EPIPE)
	c.out.end(io.EOF, net.ErrClosed)
	return nil
}

// memoryPeer is what a test holds of a tunnel in memory.
type memoryPeer struct {
	memoryConn

	t      *testing.T
	masked bool // whether it is the client
}

func (p *memoryPeer) send(raw string) {
	p.t.Helper()
	if _, err := p.Write([]byte(raw)); err != nil {
		p.t.Errorf("sending: %v", err)
	}
}

// frame is an unfragmented frame as this peer sends it.
func (p *memoryPeer) frame(opcode byte, payload string) string {
	return string(testbed.NewFrame(opcode, payload).Bytes(p.masked))
}

// closeFrame is a Close frame as this peer sends it.
func (p *memoryPeer) closeFrame(code uint16, reason string) string {
	return string(testbed.NewClose(code, reason).Bytes(p.masked))
}

// has is what has come and was not yet taken by expect, once nothing more
// happens without time passing.
func (p *memoryPeer) has() string {
	synctest.Wait()
	return p.in.held()
}

func (p *memoryPeer) expect(want string) {
	p.t.Helper()
	if got := p.has(); got != want {
		p.t.Fatalf("got %q, want %q", got, want)
	}
	p.in.forget()
}

// expectUnmasked is expect of a frame with a mask that is not known.
func (p *memoryPeer) expectUnmasked(want string) {
	p.t.Helper()
	got := []byte(p.has())
	if len(got) < 6 || got[1]&0x80 == 0 {
		p.t.Fatalf("got %q, want a masked frame", got)
	}
	for i := range got[6:] {
		got[6+i] ^= got[2+i%4]
	}
	plain := string([]byte{got[0], got[1] & 0x7F}) + string(got[6:])
	if plain != want {
		p.t.Fatalf("got %q, want %q", plain, want)
	}
	p.in.forget()
}

func (p *memoryPeer) expectEnd() {
	p.t.Helper()
	p.expect("")
	if !p.in.hasEnded() {
		p.t.Fatal("the stream goes on, want its end")
	}
}

func (p *memoryPeer) expectReset() {
	p.t.Helper()
	p.expect("")
	if !errors.Is(p.in.readError(), syscall.ECONNRESET) {
		p.t.Fatalf("reading fails by %v, want a reset", p.in.readError())
	}
}

func (p *memoryPeer) expectOpen() {
	p.t.Helper()
	p.expect("")
	if p.in.hasEnded() {
		p.t.Fatal("the stream has ended")
	}
}

// reset breaks both directions.
func (p *memoryPeer) reset() {
	p.in.end(net.ErrClosed, syscall.ECONNRESET)
	p.out.end(syscall.ECONNRESET, net.ErrClosed)
}

// memoryTunnel is a tunnel in a bubble of its own time, in a registry of its
// own.
type memoryTunnel struct {
	*Tunnel

	t                *testing.T
	client, upstream *memoryPeer
	live             *Registry
	reports          chan Outcome
	meter            *recorder
	began            time.Time
	others           sync.WaitGroup // what the test lets the peers do meanwhile
	exits            atomic.Bool    // the process is about to exit
	slept            atomic.Int64   // how long the machine has, in nanoseconds
}

// freehold is the owner of a tunnel that may stay.
type freehold struct{ reports chan<- Outcome }

func (freehold) MustGo() (Ending, bool) { return Ending{}, false }
func (f freehold) Ended(o Outcome)      { f.reports <- o }

// inMemory runs a test with a tunnel. When the test returns, the tunnel has to
// end by itself or because its peers have gone.
func inMemory(t *testing.T, policy Options, test func(m *memoryTunnel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &memoryTunnel{t: t, live: NewRegistry(nil), reports: make(chan Outcome, 2), began: time.Now()}
		m.live.exiting = m.exits.Load
		m.live.CountSleep(func() time.Duration { return time.Duration(m.slept.Load()) })
		m.open(policy)
		defer m.finish()
		test(m)
	})
}

func (m *memoryTunnel) open(policy Options) {
	m.t.Helper()
	var sides [2]relay.Side
	m.client, sides[0].Conn = newMemoryPeer(m.t, true)
	m.upstream, sides[1].Conn = newMemoryPeer(m.t, false)
	m.Tunnel = New(About{ID: "id", ClientIP: "192.0.2.1", Upstream: "upstream.test:80"}, &policy, m.live, freehold{m.reports})
	m.meter = new(recorder)
	m.Meter = m.meter
	m.Start(func(hooks relay.Hooks) relay.Relay { return relay.Start(sides[0], sides[1], hooks) }, func() float64 { return 0.5 })
}

func (m *memoryTunnel) finish() {
	m.t.Helper()
	_ = m.client.Close()
	_ = m.upstream.Close()
	m.others.Wait()
	m.waitDone()
	if m.live.exit.hasBegun() {
		<-m.live.ShutDown() // time stands still for it afterwards
	}
	m.expectMetered()
	if n := m.live.Count(); n != 0 {
		m.t.Errorf("%d tunnels are live at the end", n)
	}
	if n := len(m.reports); n > 1 {
		m.t.Errorf("the end was reported %d times", n)
	}
}

func newMemoryPeer(t *testing.T, masked bool) (*memoryPeer, memoryConn) {
	t.Helper()
	in, out := newMemory(), newMemory()
	return &memoryPeer{memoryConn{in, out}, t, masked}, memoryConn{out, in}
}

// waitDone must not wait forever: in a bubble, time flies while the registry's
// sweep goes on.
func (m *memoryTunnel) waitDone() {
	m.t.Helper()
	const patience = time.Hour
	select {
	case <-m.done:
	case <-time.After(patience):
		m.relay.Abort()
		<-m.done
		m.t.Fatalf("the tunnel has not ended after %v", patience)
	}
}

// expectReason waits for the end of the tunnel and compares why it came.
func (m *memoryTunnel) expectReason(want Reason) {
	m.t.Helper()
	m.waitDone()
	if got := (<-m.reports).Reason; got != want {
		m.t.Errorf("the tunnel ended by %s, want %s", got, want)
	}
}

// expectClose compares what was noted of the first Close frame.
func (m *memoryTunnel) expectClose(from Peer, code uint16) {
	m.t.Helper()
	if m.closeFrom != from || m.closeCode != code {
		m.t.Errorf("the first Close is noted as %d from %q, want %d from %q", m.closeCode, m.closeFrom, code, from)
	}
}

// expectLive checks that the tunnel has not ended.
func (m *memoryTunnel) expectLive() {
	m.t.Helper()
	synctest.Wait()
	select {
	case <-m.done:
		m.t.Fatalf("the tunnel has ended by %s after %v", m.why, time.Since(m.began))
	default:
	}
}

// expectAge checks that so much time has passed since the tunnel began, and at
// most twice the resolution of its times more.
func (m *memoryTunnel) expectAge(want time.Duration) {
	m.t.Helper()
	if age := time.Since(m.began); age < want || age > want+2*SweepInterval {
		m.t.Errorf("%v have passed, want %v", age, want)
	}
}
