package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

const key = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455 section 1.3

// exchange performs a handshake at an address.
func exchange(ctx context.Context, t *testing.T, d *Dialer, addr string, hints *[]int) (*Answer, error) {
	t.Helper()
	d.Connect, d.Timeout = new(net.Dialer).DialContext, 10*time.Second
	c, err := d.Dial(t.Context(), Target{Network: "tcp", Address: addr}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	offer := &handshake.Offer{Key: key}
	offer.Apply(out)
	return d.Exchange(ctx, c, out, offer, func(_ time.Time, resp *http.Response) {
		*hints = append(*hints, resp.StatusCode)
	})
}

func TestFailuresTellHowFarTheHandshakeHasCome(t *testing.T) {
	const hint = "HTTP/1.1 103 Early Hints\r\n\r\n"
	gone := errors.New("nobody waits any more")
	for name, test := range map[string]struct {
		upstream testbed.Script
		dialer   Dialer
		cancel   bool
		stage    Stage
		ended    error
		says     string
		hints    int
	}{
		"closes the connection": {
			upstream: testbed.CloseAfterHead, stage: Waiting, says: "waiting for the answer: EOF",
		},
		"says half of a header": {
			upstream: testbed.Respond("HTTP/1.1 101 Sw"), stage: Reading, says: "reading the answer: unexpected EOF",
		},
		"says too much": {
			upstream: testbed.EndlessHeaders, dialer: Dialer{MaxHeader: 1000},
			stage: Reading, says: "reading the answer: its header is too large",
		},
		"says nothing": {
			upstream: testbed.Silent, dialer: Dialer{AnswerTimeout: 100 * time.Millisecond},
			stage: Waiting, ended: context.DeadlineExceeded, says: "waiting for the answer: the handshake took too long",
		},
		"says nothing for too long": {
			cancel: true, stage: Waiting, ended: context.Canceled,
		},
		"accepts another key": {
			upstream: testbed.RespondKeepOpen(testbed.HandshakeResponse("another")),
			stage:    Judging, says: `the 101 has the wrong Sec-WebSocket-Accept: ["` + testbed.AcceptKey("another") + `"]`,
		},
		"only hints": {
			upstream: testbed.RespondKeepOpen(strings.Repeat(hint, 6)),
			stage:    Judging, says: "more than 5 informational responses", hints: 5,
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			up := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
				tb.Helper()
				if test.cancel { // when it has the request
					c.ReadRequest()
					cancel(gone)
					c.Drain()
					return
				}
				test.upstream(tb, c)
			})
			var hints []int
			_, err := exchange(ctx, t, &test.dialer, up.Addr, &hints)
			failure, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("the error is a %T: %v", err, err)
			}
			if failure.Stage != test.stage || !errors.Is(failure.Ended, test.ended) || test.says != "" && err.Error() != test.says {
				t.Errorf("at %d, ended by %v: %v", failure.Stage, failure.Ended, err)
			}
			if test.cancel && !errors.Is(failure.Cause, gone) {
				t.Errorf("the cause is %v", failure.Cause)
			}
			if len(hints) != test.hints {
				t.Errorf("told are %v, want %d", hints, test.hints)
			}
			up.WaitOpen(t, 0)
		})
	}
}

func TestConnectionIsTheAnswersUntilItIsDetached(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.RespondKeepOpen(testbed.HandshakeResponse(key)+"glued"))
	for _, detach := range []bool{false, true} {
		a, err := exchange(t.Context(), t, new(Dialer), up.Addr, new([]int))
		if err != nil {
			t.Fatal(err)
		}
		if !detach {
			a.Discard()
			up.WaitOpen(t, 0)
			continue
		}
		side := a.Detach()
		a.Discard()
		rest := make([]byte, len("glued")-len(side.Buffered))
		if _, err := io.ReadFull(side.Conn, rest); err != nil || string(side.Buffered)+string(rest) != "glued" {
			t.Errorf("the stream begins with %q and %q, %v", side.Buffered, rest, err)
		}
		side.Conn.Abort()
		_ = side.Conn.Close()
		up.WaitOpen(t, 0)
	}
}

// Making a request fails for what cannot be sent; nobody is asked then.
func TestRequestThatCannotBeSent(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	out := &http.Request{Method: "NO METHOD", Header: http.Header{}}
	_, err := new(Dialer).Exchange(t.Context(), ours, out, nil, nil)
	if failure, ok := errors.AsType[*Error](err); !ok || failure.Stage != Making {
		t.Errorf("got %v", err)
	}
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// brokenConn is a connection of another module.
type brokenConn struct {
	net.Conn

	closed bool
}

func (*brokenConn) Write(b []byte) (int, error) { return len(b), nil }
func (*brokenConn) Read([]byte) (int, error)    { panic("a mistake in a module for networks") }
func (*brokenConn) SetDeadline(time.Time) error { return nil }
func (c *brokenConn) Close() error              { c.closed = true; return nil }

func TestPanicsOfConnectionsCloseThem(t *testing.T) {
	c := new(brokenConn)
	d := &Dialer{
		Timeout: time.Minute,
		Connect: func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}
	out, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"TLS": func() error {
			_, err := d.Dial(t.Context(), Target{Network: "tcp"}, &tls.Config{ServerName: "example.com"})
			return err
		},
		"the handshake": func() error {
			_, err := d.Exchange(t.Context(), c, out, nil, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.closed = false
			defer func() {
				if recover() == nil || !c.closed {
					t.Error("it has not panicked, or is not closed")
				}
			}()
			t.Error(do())
		})
	}
}
