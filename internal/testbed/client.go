package testbed

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Client is the client's end of a connection. It speaks HTTP/1.1 and WebSocket
// by hand.
type Client struct {
	*Conn

	// Host is the Host header of Handshake. It begins as the address dialed.
	Host string
	// Informed are the informational responses that came before the last one that
	// Response has returned, other than 101.
	Informed []*http.Response
}

// Dial connects to a host:port, or to a unix socket if addr has a slash.
func Dial(tb testing.TB, addr string) *Client {
	tb.Helper()
	return dial(tb, new(net.Dialer), addr)
}

// DialTLS is Dial followed by a TLS handshake.
func DialTLS(tb testing.TB, addr string, cfg *tls.Config) *Client {
	tb.Helper()
	return dial(tb, &tls.Dialer{Config: cfg}, addr)
}

type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

func dial(tb testing.TB, d dialer, addr string) *Client {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), Timeout)
	defer cancel()
	conn, err := d.DialContext(ctx, networkOf(addr), addr)
	if err != nil {
		exitIfOver(tb)
		tb.Fatalf("client: dialing %s: %v", addr, err)
	}
	c := &Client{Conn: newConn(tb, "client", conn), Host: addr}
	if networkOf(addr) == "unix" {
		c.Host = "localhost"
	}
	c.belongTo(tb)
	return c
}

func networkOf(addr string) string {
	if strings.ContainsAny(addr, `/\`) {
		return "unix"
	}
	return "tcp"
}

// Handshake sends the [HandshakeRequest] for path and the extras, and returns
// the response. It fails the test unless that is a 101 with the right header.
func (c *Client) Handshake(path string, extra ...string) *http.Response {
	c.tb.Helper()
	raw := HandshakeRequest(path, c.Host, extra...)
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		c.tb.Fatalf("client: Handshake is for correct requests only: %v:\n%s", err, raw)
	}
	c.Send(raw)
	resp := c.Response()
	if complaint := checkResponse(resp, req.Header.Get("Sec-WebSocket-Key")); complaint != "" {
		c.tb.Fatalf("client: handshake response %s:\n%s", complaint, c.rawHead)
	}
	return resp
}

// Response reads the head of the final response to a GET; see Body for the rest.
func (c *Client) Response() *http.Response {
	c.tb.Helper()
	c.Informed = nil
	for {
		resp := c.nextResponse()
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp
		}
		c.Informed = append(c.Informed, resp)
	}
}

func (c *Client) nextResponse() *http.Response {
	c.tb.Helper()
	c.keepHead()
	resp, err := http.ReadResponse(c.in, nil)
	c.rawHead = c.headKept()
	if err != nil {
		c.fatal("reading a response", err)
	}
	return resp
}

// Body reads and closes the body of a response.
func (c *Client) Body(resp *http.Response) string {
	c.tb.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.fatal("reading a response body", err)
	}
	return string(body)
}

// Echo sends a text frame and expects the same back.
func (c *Client) Echo(payload string) {
	c.tb.Helper()
	c.WriteFrame(NewFrame(Text, payload))
	c.ExpectFrame(Text, payload)
}

// CloseHandshake sends a Close frame, expects one with the same code (0 for
// none) and then the end of the connection.
func (c *Client) CloseHandshake(code uint16) {
	c.tb.Helper()
	c.WriteFrame(NewClose(code, ""))
	c.ExpectClose(code)
	c.ExpectEOF()
}
