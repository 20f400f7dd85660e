package relay

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// pairs are the kinds of connection that a relay may have to its client and to
// its upstream.
var pairs = [][2]string{
	{"tcp", "tcp"},
	{"tcp", "unix"},
	{"tcp", "tls"},
	{"unix", "unix"},
	{"tls", "tcp"},
	{"tls", "unix"},
	{"tls", "tls"},
}

// combination is an implementation over a pair of kinds of connection.
type combination struct {
	name  string
	kinds [2]string
	run   func(client, upstream Side, hooks Hooks) Relay
	open  [2]opener
}

// combinationsOf returns those of one implementation.
func combinationsOf(t *testing.T, name string) []combination {
	t.Helper()
	certs := testbed.NewCerts(t)
	clients := map[string]opener{
		"tcp":  openTCP,
		"unix": openUnix,
		"tls":  func(tb testing.TB) (peer, ours net.Conn) { tb.Helper(); return openTLSClient(tb, certs) },
	}
	upstreams := map[string]opener{
		"tcp":  openTCP,
		"unix": openUnix,
		"tls":  func(tb testing.TB) (peer, ours net.Conn) { tb.Helper(); return openTLSUpstream(tb, certs) },
	}
	var list []combination
	for _, pair := range pairs {
		list = append(list, combination{
			name:  fmt.Sprintf("%s/%s to %s", name, pair[0], pair[1]),
			kinds: pair,
			run:   implementations[name],
			open:  [2]opener{clients[pair[0]], upstreams[pair[1]]},
		})
	}
	return list
}

// combinations returns those of all implementations.
func combinations(t *testing.T) []combination {
	t.Helper()
	var list []combination
	for name := range implementations {
		list = append(list, combinationsOf(t, name)...)
	}
	return list
}

func (c combination) rig(tb testing.TB) *rig {
	tb.Helper()
	return newRig(tb, c.run, c.open[0], c.open[1])
}

// crowd does things with many relays at a time. It comes to gates, where its
// members wait for each other.
type crowd struct {
	t     *testing.T
	gates []gate
	waits []func()
}

type gate struct {
	coming sync.WaitGroup
	open   chan struct{}
}

func newCrowd(t *testing.T, gates int) *crowd {
	t.Helper()
	c := &crowd{t: t, gates: make([]gate, gates)}
	for i := range c.gates {
		c.gates[i].open = make(chan struct{})
	}
	return c
}

// add starts a member. The name is for messages.
func (c *crowd) add(name string, do func(m *member)) {
	c.t.Helper()
	for i := range c.gates {
		c.gates[i].coming.Add(1)
	}
	c.waits = append(c.waits, testbed.Go(c.t, func(tb testing.TB) {
		m := &member{TB: tb, name: name, crowd: c}
		defer m.passAll()
		defer m.leave()
		do(m)
	}))
}

// await waits until all members have come to a gate, or have left.
func (c *crowd) await(gate int) { c.gates[gate].coming.Wait() }

// open lets them through.
func (c *crowd) open(gate int) { close(c.gates[gate].open) }

// wait waits until all have left.
func (c *crowd) wait() {
	for _, wait := range c.waits {
		wait()
	}
}

// member is the TB of a goroutine, whose messages tell which one it is, and
// whose Cleanups take place when it ends.
type member struct {
	testing.TB

	name     string
	crowd    *crowd
	passed   int // gates
	cleanups []func()
}

// pass waits at the next gate.
func (m *member) pass() {
	g := &m.crowd.gates[m.passed]
	m.passed++
	g.coming.Done()
	<-g.open
}

func (m *member) leave() {
	for _, f := range slices.Backward(m.cleanups) {
		f()
	}
}

// passAll keeps others from waiting for one that has left.
func (m *member) passAll() {
	for ; m.passed < len(m.crowd.gates); m.passed++ {
		m.crowd.gates[m.passed].coming.Done()
	}
}

func (m *member) Cleanup(f func()) { m.cleanups = append(m.cleanups, f) }

func (m *member) Error(args ...any) {
	m.Helper()
	m.TB.Errorf("%s: %s", m.name, fmt.Sprint(args...))
}

func (m *member) Errorf(format string, args ...any) {
	m.Helper()
	m.TB.Errorf("%s: %s", m.name, fmt.Sprintf(format, args...))
}

func (m *member) Fatal(args ...any) {
	m.Helper()
	m.TB.Fatalf("%s: %s", m.name, fmt.Sprint(args...))
}

func (m *member) Fatalf(format string, args ...any) {
	m.Helper()
	m.TB.Fatalf("%s: %s", m.name, fmt.Sprintf(format, args...))
}
