package testbed

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// Expect reads as many bytes as want has and compares them.
func (c *Conn) Expect(want string) {
	c.tb.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.in, got); err != nil {
		c.tb.Logf("%s: got %d of %d bytes: %s", c.name, n, len(want), brief(got[:n]))
		c.fatal("reading", err)
	}
	if string(got) != want {
		c.tb.Fatalf("%s: got %s, want %s", c.name, brief(got), brief([]byte(want)))
	}
}

// ExpectFrame reads an unfragmented frame, compares it, and checks that it is
// masked if and only if it comes from a client.
func (c *Conn) ExpectFrame(opcode byte, payload string) {
	c.tb.Helper()
	got, want := c.ReadFrame(), NewFrame(opcode, payload)
	want.Masked = c.upstream
	if got.Fin != want.Fin || got.RSV != want.RSV || got.Opcode != want.Opcode ||
		got.Masked != want.Masked || !bytes.Equal(got.Payload, want.Payload) {
		c.tb.Fatalf("%s: got %v, want %v", c.name, got, want)
	}
}

// ExpectClose reads a Close frame with the code given (0 for none) and returns
// its reason.
func (c *Conn) ExpectClose(code uint16) (reason string) {
	c.tb.Helper()
	f := c.ReadFrame()
	got, reason := f.CloseStatus()
	regular := f.Fin && f.RSV == 0 && f.Opcode == Close && f.Masked == c.upstream
	if !regular || got != code || code == 0 && len(f.Payload) > 0 {
		c.tb.Fatalf("%s: got %v, want a Close frame with code %d", c.name, f, code)
	}
	return reason
}

// ExpectEOF checks that the peer has ended its direction cleanly and that
// nothing comes before that. Under TLS this takes a close_notify.
func (c *Conn) ExpectEOF() {
	c.tb.Helper()
	c.expectEnd("a clean end", func(err error) bool { return errors.Is(err, io.EOF) })
}

// ExpectReset checks that the next thing is a reset of the connection.
func (c *Conn) ExpectReset() {
	c.tb.Helper()
	c.expectEnd("a reset", wasReset)
}

// ExpectClosed checks that the next thing is the end, clean or not.
func (c *Conn) ExpectClosed() {
	c.tb.Helper()
	c.expectEnd("the end", gone)
}

func (c *Conn) expectEnd(want string, ok func(error) bool) {
	c.tb.Helper()
	_, err := c.in.Peek(1)
	switch {
	case err == nil:
		data, _ := c.in.Peek(c.in.Buffered())
		c.tb.Fatalf("%s: got %s, want %s", c.name, brief(data), want)
	case !ok(err):
		c.fatal("waiting for "+want, err)
	}
}

// ExpectNothing checks that for the time given the connection stays open and
// no byte arrives.
func (c *Conn) ExpectNothing(d time.Duration) {
	c.tb.Helper()
	usual := c.source.timeout
	c.source.timeout = d
	defer func() { c.source.timeout = usual }()

	_, err := c.in.Peek(1)
	switch {
	case err == nil:
		data, _ := c.in.Peek(c.in.Buffered())
		c.tb.Fatalf("%s: got %s, want silence", c.name, brief(data))
	case !errors.Is(err, os.ErrDeadlineExceeded):
		c.fatal("expecting silence", err)
	}
}

// ExpectProblem checks that an error has a text in it; none means no error.
func ExpectProblem(tb testing.TB, err error, want string) {
	tb.Helper()
	switch {
	case want == "" && err != nil:
		tb.Errorf("it fails: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		tb.Errorf("the error is %v, want it to say %q", err, want)
	}
}
