package testbed

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a name server on a UDP port of 127.0.0.1.
type DNS struct {
	// Addr is host:port.
	Addr string

	tb   testing.TB
	conn net.PacketConn
	wg   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	records map[dnsmessage.Question][]dnsmessage.ResourceBody
	failing map[string]bool
	asked   int
}

// NewDNS starts a name server that knows no names.
func NewDNS(tb testing.TB) *DNS {
	tb.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(tb.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("name server: listening: %v", err)
	}
	d := &DNS{
		Addr:    conn.LocalAddr().String(),
		tb:      background{tb},
		conn:    conn,
		records: make(map[dnsmessage.Question][]dnsmessage.ResourceBody),
		failing: make(map[string]bool),
	}
	d.wg.Go(d.serve)
	tb.Cleanup(func() {
		_ = conn.Close()
		d.wg.Wait()
	})
	return d
}

// SetA gives a name, which ends with a dot, these IPv4 addresses and no others.
func (d *DNS) SetA(name string, addresses ...string) {
	var bodies []dnsmessage.ResourceBody
	for _, address := range addresses {
		bodies = append(bodies, &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()})
	}
	d.set(name, dnsmessage.TypeA, bodies)
}

// SetSRV gives a name, which ends with a dot, these ports of target.
func (d *DNS) SetSRV(name, target string, ports ...uint16) {
	var bodies []dnsmessage.ResourceBody
	for i, port := range ports {
		bodies = append(bodies, &dnsmessage.SRVResource{
			Priority: uint16(i), Weight: 1, Port: port, Target: dnsmessage.MustNewName(target),
		})
	}
	d.set(name, dnsmessage.TypeSRV, bodies)
}

func (d *DNS) set(name string, typ dnsmessage.Type, bodies []dnsmessage.ResourceBody) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records[dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}] = bodies
}

// Fail has the server answer questions for a name with a failure, or not any
// more.
func (d *DNS) Fail(name string, failing bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing[name] = failing
}

// Asked returns how many questions there were so far.
func (d *DNS) Asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

func (d *DNS) serve() {
	buf := make([]byte, 1<<12)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an answer before has met a closed port
		}
		answer, err := d.answer(buf[:n])
		if err != nil {
			d.tb.Errorf("name server: %v", err)
			continue
		}
		_, _ = d.conn.WriteTo(answer, from) // the other side asks again
	}
}

func (d *DNS) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	if len(m.Questions) != 1 {
		return nil, errors.New("not one question")
	}
	q := m.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired},
		Questions: m.Questions,
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if d.failing[q.Name.String()] {
		reply.RCode = dnsmessage.RCodeServerFailure
		return reply.Pack()
	}
	if !d.knows(q.Name) {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, body := range d.records[q] {
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   body,
		})
	}
	return reply.Pack()
}

// knows reports whether there are records of a name. Its caller holds mu.
func (d *DNS) knows(name dnsmessage.Name) bool {
	for q := range d.records {
		if q.Name == name {
			return true
		}
	}
	return false
}
