package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

var nameCount atomic.Int64

// newName returns a name that nobody has asked for: Caddy keeps answers for the
// life of the process.
func newName() string {
	return fmt.Sprintf("n%d-%d.test.", nameCount.Add(1), time.Now().UnixNano())
}

func TestUpstreamsAreFoundByA(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, dns, name := testbed.NewUpstream(t, testbed.Echo), testbed.NewDNS(t), newName()
	dns.SetA(name, "127.0.0.1")
	h := dynamic(json.RawMessage(fmt.Sprintf(
		`{"source": "a", "name": %q, "port": "%d", "refresh": "100ms", "resolver": {"addresses": [%q]}, "versions": {"ipv4": true}}`,
		name, portOf(t, up.Addr), dns.Addr)))
	h.Drain = &Drain{EvictPeriod: caddy.Duration(10 * time.Millisecond)}
	p, _ := putInForce(t, h)
	c, upstream := upstreamOf(t, p)
	if upstream != up.Addr {
		t.Errorf("the upstream is %s, want %s", upstream, up.Addr)
	}
	dns.Fail(name, true)
	p.line(sourceFails)
	c.Echo("still here")
	another, _ := upstreamOf(t, p)
	another.CloseHandshake(1000)
	another.Close()
	dns.Fail(name, false)
	p.line(sourceWorks)
	dns.SetA(name) // no such name any more is a failure, too
	asked := dns.Asked()
	eventually(t, "the name server is asked", func() bool { return dns.Asked() >= asked+3 })
	c.Echo("still here")
	dns.SetA(name, "127.0.0.2")
	expectStanding(t, h, net.JoinHostPort("127.0.0.2", fmt.Sprint(portOf(t, up.Addr))))
	c.ExpectClose(1012)
	c.Close()
}

func TestUpstreamsAreFoundBySRV(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	dns, name := testbed.NewDNS(t), newName()
	dns.SetA(name, "127.0.0.1")
	dns.SetSRV("_ws._tcp."+name, name, portOf(t, a.Addr))
	h := dynamic(json.RawMessage(fmt.Sprintf(
		`{"source": "srv", "service": "ws", "proto": "tcp", "name": %q, "refresh": "100ms", "resolver": {"addresses": [%q]}}`,
		name, dns.Addr)))
	h.LoadBalancing = &LoadBalancing{SelectionPolicyRaw: json.RawMessage(`{"policy": "first"}`)}
	h.TransportRaw = json.RawMessage(fmt.Sprintf(`{"protocol": "http", "resolver": {"addresses": [%q]}}`, dns.Addr))
	p, _ := putInForce(t, h)
	target := func(up *testbed.Upstream) string { return fmt.Sprintf("%s:%d", name, portOf(t, up.Addr)) }
	expectStanding(t, h, target(a))
	c, upstream := upstreamOf(t, p)
	if upstream != target(a) {
		t.Errorf("the upstream is %s, want %s", upstream, target(a))
	}
	dns.SetSRV("_ws._tcp."+name, name, portOf(t, b.Addr), portOf(t, a.Addr))
	expectStanding(t, h, target(b), target(a))
	another, upstream := upstreamOf(t, p)
	if upstream != target(b) {
		t.Errorf("the upstream is %s, want %s, which has priority", upstream, target(b))
	}
	for _, c := range []*testbed.Client{c, another} {
		c.Echo("still here")
		c.CloseHandshake(1000)
		c.Close()
	}
}

// One source of several that fails does not take away what it has found.
func TestPartOfMultiFails(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	good, bad, one, two := testbed.NewDNS(t), testbed.NewDNS(t), newName(), newName()
	good.SetA(one, "127.0.0.1")
	bad.SetA(two, "127.0.0.2")
	source := `{"source": "a", "name": %q, "refresh": "100ms", "resolver": {"addresses": [%q]}, "versions": {"ipv4": true}}`
	h := dynamic(json.RawMessage(fmt.Sprintf(`{"source": "multi", "sources": [%s, %s]}`,
		fmt.Sprintf(source, one, good.Addr), fmt.Sprintf(source, two, bad.Addr))))
	p, _ := putInForce(t, h)
	eventually(t, "both are found", func() bool { return len(addressesOf(h)) == 2 })
	bad.Fail(two, true)
	p.line(sourceFails)
	good.SetA(one, "127.0.0.1", "127.0.0.3")
	expectStanding(t, h, "127.0.0.1:80", "127.0.0.3:80", "127.0.0.2:80")
}
