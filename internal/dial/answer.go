package dial

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

const (
	// maxAnswerHeader bounds the header of an answer, unless MaxHeader does.
	maxAnswerHeader = 1 << 20
	// maxInformational is how many 1xx responses may come before the answer.
	maxInformational = 5
)

// Answer is what an upstream said to a handshake. Its connection is the answer's
// until [Answer.Detach].
type Answer struct {
	*http.Response

	conn   net.Conn
	reader *bufio.Reader    // nil: nothing is expected any more
	limit  io.LimitedReader // of the header
}

// readers are those for upstreams' answers. Each is needed for the time of a
// handshake only.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// requests are buffers for the handshakes that go to upstreams, so that each
// goes out in one piece.
var requests = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Exchange sends a request over c and reads the header of the answer, until ctx ends or the
// time is over. A 101 is verified if the request is a handshake with an offer. Informational
// responses are told inform, if there is one. The answer has to be discarded or
// detached; if there is none, c is closed. Its errors are of the type [*Error].
func (d *Dialer) Exchange(
	ctx context.Context, c net.Conn, out *http.Request, offer *handshake.Offer, inform func(by time.Time, r *http.Response),
) (*Answer, error) {
	by := d.By
	if d.AnswerTimeout > 0 {
		by = d.within(d.AnswerTimeout)
	}
	maxHeader := d.MaxHeader
	if maxHeader <= 0 {
		maxHeader = maxAnswerHeader
	}
	if err := c.SetDeadline(by); err != nil {
		return nil, errors.Join(failed(ctx, by, Sending, err), ignoreClosed(c.Close()))
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	a := &Answer{conn: c, limit: io.LimitedReader{R: c, N: maxHeader}}
	a.reader, _ = readers.Get().(*bufio.Reader)
	a.reader.Reset(&a.limit)
	returned := false
	defer closeUnless(&returned, c)
	err := a.ask(ctx, by, out, inform)
	returned = true
	if !stop() && err == nil {
		err = failed(ctx, by, Waiting, ctx.Err())
	}
	if err == nil {
		if err = c.SetDeadline(time.Time{}); err != nil {
			err = failed(ctx, by, Waiting, err)
		}
	}
	if err == nil && offer != nil && a.StatusCode == http.StatusSwitchingProtocols {
		err = judged(offer.Verify(a.Response))
	}
	if err != nil {
		a.Discard()
		return nil, err
	}
	// What follows the header is not bounded: frames, or the body.
	a.limit.N = math.MaxInt64
	return a, nil
}

// ask writes the request and reads the answer's header.
func (a *Answer) ask(ctx context.Context, by time.Time, out *http.Request, inform func(time.Time, *http.Response)) error {
	if err := a.write(ctx, by, out); err != nil {
		return err
	}
	if _, err := a.reader.Peek(1); err != nil {
		return failed(ctx, by, Waiting, err)
	}
	if first, _ := a.reader.Peek(a.reader.Buffered()); bytes.HasPrefix(first, []byte(out.Method+" ")) {
		// What is not understood is shown in errors, and this is the client's.
		return judged(errors.New("the upstream sends back what it gets"))
	}
	for n := range maxInformational + 1 {
		resp, err := http.ReadResponse(a.reader, out) //nolint:bodyclose // discard ends the connection, body and all
		if err != nil {
			if a.limit.N <= 0 {
				err = errors.New("its header is too large")
			}
			return failed(ctx, by, Reading, err)
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			a.Response = resp
			return nil
		}
		if resp.StatusCode < 100 {
			return judged(fmt.Errorf("%d is no status", resp.StatusCode))
		}
		if inform != nil && n < maxInformational {
			inform(by, resp)
		}
	}
	return judged(fmt.Errorf("more than %d informational responses", maxInformational))
}

func (a *Answer) write(ctx context.Context, by time.Time, out *http.Request) error {
	buf, _ := requests.Get().(*bytes.Buffer)
	defer requests.Put(buf)
	buf.Reset()
	if err := out.Write(buf); err != nil {
		return &Error{Stage: Making, Err: err}
	}
	if _, err := a.conn.Write(buf.Bytes()); err != nil {
		return failed(ctx, by, Sending, err)
	}
	return nil
}

// Read reads the body.
func (a *Answer) Read(p []byte) (int, error) { return a.Body.Read(p) }

// SetReadDeadline sets the time by which the body has to go on.
func (a *Answer) SetReadDeadline(t time.Time) error {
	return a.conn.SetReadDeadline(t)
}

// Detach gives what the connection has become to its caller, with the bytes that came
// together with the answer.
func (a *Answer) Detach() relay.Side {
	buffered, _ := a.reader.Peek(a.reader.Buffered())
	taken := relay.Side{Conn: conn.Socket{Conn: a.conn}, Buffered: slices.Clone(buffered)}
	a.free()
	return taken
}

// Discard ends the use of an answer and its connection, unless that was detached.
func (a *Answer) Discard() {
	if a.reader != nil {
		_ = a.conn.Close() // nothing more is expected of it
		a.free()
	}
}

// free ends the use of the reader.
func (a *Answer) free() {
	a.reader.Reset(nil)
	readers.Put(a.reader)
	a.reader = nil
}
