package testbed

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// The scripts below leave the moment of the end to their peer: one that goes
// away at any time does not fail the test.

// Echo accepts the handshake, sends data frames back one by one, answers Ping
// with Pong, and Close with the same Close before it closes the connection.
func Echo(tb testing.TB, c *Conn) {
	tb.Helper()
	echo(tb, c)
}

// EchoWith is Echo with extra header lines in the 101, which work as in
// [HandshakeRequest].
func EchoWith(extra ...string) Script {
	return func(tb testing.TB, c *Conn) {
		tb.Helper()
		echo(tb, c, extra...)
	}
}

func echo(tb testing.TB, c *Conn, extra ...string) {
	tb.Helper()
	c.Tolerate()
	c.AcceptHandshake(extra...)
	for {
		f := c.ReadFrame()
		if !f.Masked {
			tb.Fatalf("%s: got %v, want it masked", c.name, f)
		}
		switch f.Opcode {
		case Ping:
			f.Opcode = Pong
			c.WriteFrame(f)
		case Pong:
		case Close:
			c.WriteFrame(f)
			return
		default:
			c.WriteFrame(f)
		}
	}
}

// Silent reads the request head and never answers.
func Silent(tb testing.TB, c *Conn) {
	tb.Helper()
	RespondKeepOpen("")(tb, c)
}

// BlackHole neither reads nor writes until the test function has returned.
func BlackHole(tb testing.TB, _ *Conn) {
	tb.Helper()
	<-tb.Context().Done()
}

// CloseAtOnce closes the connection without reading. The peer sees a reset
// instead of an end if it has sent something by then.
func CloseAtOnce(tb testing.TB, _ *Conn) { tb.Helper() }

// CloseAfterHead closes the connection after reading the request head.
func CloseAfterHead(tb testing.TB, c *Conn) {
	tb.Helper()
	Respond("")(tb, c)
}

// ResetAfterHead resets the connection after reading the request head.
func ResetAfterHead(tb testing.TB, c *Conn) {
	tb.Helper()
	c.Tolerate()
	c.ReadRequest()
	c.Reset()
}

// Respond reads the request head, writes raw and closes the connection.
func Respond(raw string) Script {
	return func(tb testing.TB, c *Conn) {
		tb.Helper()
		c.Tolerate()
		c.ReadRequest()
		c.Send(raw)
	}
}

// Answer reads the request head and gives this answer, whose end is that of the
// connection. The status has its text, such as 200 OK.
func Answer(status, body string, header ...string) Script {
	lines := append([]string{"HTTP/1.1 " + status}, header...)
	return Respond(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

// RespondKeepOpen reads the request head, writes raw, and then ignores what it
// reads until the peer closes.
func RespondKeepOpen(raw string) Script {
	return func(tb testing.TB, c *Conn) {
		tb.Helper()
		c.Tolerate()
		c.ReadRequest()
		c.Send(raw)
		c.Drain()
	}
}

// HalfHead answers with half the head of a 101 and keeps the connection open.
func HalfHead(tb testing.TB, c *Conn) {
	tb.Helper()
	RespondKeepOpen("HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso")(tb, c)
}

// EndlessHeaders answers with a 101 whose header never ends.
func EndlessHeaders(tb testing.TB, c *Conn) {
	tb.Helper()
	c.Tolerate()
	c.ReadRequest()
	c.Send("HTTP/1.1 101 Switching Protocols\r\n")
	for i := 0; ; i++ {
		c.Send(fmt.Sprintf("X-Filler-%d: %s\r\n", i, strings.Repeat("x", 1000)))
	}
}

// RefusedAddr returns a TCP address that refuses connections until the test
// ends: it is the local end of a connection, so that nobody can listen there.
func RefusedAddr(tb testing.TB) string {
	tb.Helper()
	u := NewUpstream(tb, BlackHole)
	conn, err := new(net.Dialer).DialContext(tb.Context(), "tcp", u.Addr)
	if err != nil {
		tb.Fatalf("reserving an address: %v", err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}
