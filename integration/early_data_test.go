package integration

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// ticketCache tells when a ticket has come.
type ticketCache struct {
	tls.ClientSessionCache
	came chan struct{}
}

func (c ticketCache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	select {
	case c.came <- struct{}{}:
	default:
	}
}

// deaf is a socket that hears nothing until it is opened.
type deaf struct {
	net.PacketConn
	opened chan struct{}
}

func (d deaf) ReadFrom(p []byte) (int, net.Addr, error) {
	<-d.opened
	return d.PacketConn.ReadFrom(p)
}

// TestHandshakeInEarlyData has a request come in the first packets of a connection that is
// resumed (RFC 9001 section 4.6), which somebody else may have sent before. The upstream is
// told so (RFC 8470 section 5.1), and may refuse it.
func TestHandshakeInEarlyData(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startStreaming(t, proxyTo(up.Addr))
	other := connectH3(t, c)
	cfg := c.certs.ClientConfig()
	cfg.NextProtos = []string{http3.NextProtoH3}
	cache := ticketCache{tls.NewLRUClientSessionCache(1), make(chan struct{}, 1)}
	cfg.ClientSessionCache = cache
	// A client that hears nothing cannot end its handshake, so what it sends is early.
	dial := func(early bool) (h *h3Conn, hear func()) {
		socket, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		opened := make(chan struct{})
		hear = sync.OnceFunc(func() { close(opened) })
		transport := &quic.Transport{Conn: deaf{socket, opened}}
		dial := transport.DialEarly
		if !early {
			hear()
			dial = transport.Dial
		}
		conn, err := dial(timeLimit(t), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(c.https)), cfg, &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		h = &h3Conn{conn: conn, socket: socket}
		t.Cleanup(func() {
			hear()
			h.close()
			_ = transport.Close()
			h.vanish()
		})
		return h, hear
	}
	first, _ := dial(false)
	within(t, "a ticket has come", cache.came)
	first.close()

	for name, answer := range map[string]string{
		"accepted": "",
		"refused":  "HTTP/1.1 425 Too Early\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			h, hear := dial(true)
			s := h.sendWebSocket(t, c)
			u := up.Next(t)
			u.Tolerate()
			r := u.ReadRequest()
			hear()
			within(t, "the client's handshake is over", h.conn.HandshakeComplete())
			if !h.conn.ConnectionState().Used0RTT {
				t.Error("the client has not used 0-RTT")
			}
			if got := r.Header.Get("Early-Data"); got != "1" {
				t.Errorf("the upstream has got Early-Data %q, want 1", got)
			}
			if answer != "" {
				u.Send(answer)
				if got := s.outcome(); got != "425" {
					t.Errorf("the outcome is %s, want 425", got)
				}
				return
			}
			u.Accept(r)
			s.sendFrame(t, 0, testbed.NewFrame(testbed.Text, "hello").Bytes(true))
			u.ExpectFrame(testbed.Text, "hello")
			u.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
			s.awaitText(t, "hello")
			u.Close()
		})
	}
	client, u, _ := accept(t, up, other, webSocket("/"))
	client.send(t, testbed.NewFrame(testbed.Text, "as ever"))
	u.ExpectFrame(testbed.Text, "as ever")
	u.Close()
}
