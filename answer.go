package websocketproxy

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
)

const (
	// maxAnswerHeader bounds the header of an upstream's answer, unless the
	// transport's max_response_header does.
	maxAnswerHeader = 1 << 20
	// maxInformational is how many 1xx responses may come before the answer.
	maxInformational = 5
)

// answer is what an upstream said to a handshake, and its connection.
type answer struct {
	*http.Response
	choice *choice
	conn   net.Conn
	reader *bufio.Reader
	limit  *io.LimitedReader
	// taken tells that a tunnel has the connection, and the place at the upstream,
	// and left that the place is given back.
	taken, left bool
}

// readers are those for upstreams' answers. Each is needed for the time of a
// handshake only.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// requests are buffers for the handshakes that go to upstreams, so that each
// goes out in one piece.
var requests = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// exchange sends the request and reads the answer's header, until ctx ends. A 101
// is verified if hs is the handshake that the request makes. What it returns has
// to be closed, unless it was refused.
func (d *dialer) exchange(ctx context.Context, conn net.Conn, out *http.Request, hs *clientHandshake) (*answer, *refusal) {
	if timeout := time.Duration(d.transport.ResponseHeaderTimeout); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	maxHeader := d.transport.MaxResponseHeaderSize
	if maxHeader <= 0 {
		maxHeader = maxAnswerHeader
	}
	// The deadline is put on the connection only when ctx has ended, which
	// costs nothing in a handshake that goes well.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	a := &answer{conn: conn, limit: &io.LimitedReader{R: conn, N: maxHeader}}
	a.reader, _ = readers.Get().(*bufio.Reader)
	a.reader.Reset(a.limit)
	refused := a.ask(ctx, out, hs)
	if !stop() && refused == nil {
		refused = refuseUpstream(ctx, ctx.Err(), "waiting for the answer", causeHandshakeTimeout, causeClosed)
	}
	if refused == nil && hs != nil && a.StatusCode == http.StatusSwitchingProtocols {
		if err := hs.Verify(a.Response); err != nil {
			refused = refuseAnswer(err)
		}
	}
	if refused != nil {
		a.close()
		return nil, refused
	}
	// What follows the header is not bounded: frames, or the body.
	a.limit.N = math.MaxInt64
	return a, nil
}

// ask writes the request and reads the answer's header. Informational responses go to
// the client, if the handshake has one.
func (a *answer) ask(ctx context.Context, out *http.Request, hs *clientHandshake) *refusal {
	if refused := a.write(ctx, out); refused != nil {
		return refused
	}
	// A connection that is closed before one byte of an answer has not seen
	// the handshake, as far as anyone can tell.
	if _, err := a.reader.Peek(1); err != nil {
		f := refuseUpstream(ctx, err, "waiting for the answer", causeHandshakeTimeout, causeClosed)
		f.retry = f.cause == causeClosed
		return f
	}
	if first, _ := a.reader.Peek(a.reader.Buffered()); bytes.HasPrefix(first, []byte(out.Method+" ")) {
		// What is not understood is shown in errors, and this is the client's.
		return refuseAnswer(errors.New("the upstream sends back what it gets"))
	}
	for n := range maxInformational + 1 {
		resp, err := http.ReadResponse(a.reader, out) //nolint:bodyclose // a.close ends the connection, body and all
		if err != nil {
			if a.limit.N <= 0 {
				err = errors.New("its header is too large")
			}
			return refuseUpstream(ctx, err, "reading the answer", causeHandshakeTimeout, causeBadAnswer)
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			a.Response = resp
			return nil
		}
		if resp.StatusCode < 100 {
			return refuseAnswer(fmt.Errorf("%d is no status", resp.StatusCode))
		}
		if hs != nil && hs.client != nil && n < maxInformational {
			inform(ctx, hs.client, resp)
		}
	}
	return refuseAnswer(fmt.Errorf("more than %d informational responses", maxInformational))
}

// refuseAnswer makes the refusal for an answer that is none.
func refuseAnswer(err error) *refusal {
	return &refusal{cause: causeBadAnswer, status: http.StatusBadGateway, err: err}
}

func (a *answer) write(ctx context.Context, out *http.Request) *refusal {
	buf, _ := requests.Get().(*bytes.Buffer)
	defer requests.Put(buf)
	buf.Reset()
	if err := out.Write(buf); err != nil {
		// Not the upstream's fault: header operations have made a Host that
		// cannot be sent.
		return &refusal{
			cause:  causeInternal,
			status: http.StatusInternalServerError,
			err:    fmt.Errorf("making the upstream's request: %w", err),
		}
	}
	if _, err := a.conn.Write(buf.Bytes()); err != nil {
		f := refuseUpstream(ctx, err, "sending the handshake", causeHandshakeTimeout, causeClosed)
		f.retry = f.cause == causeClosed
		return f
	}
	return nil
}

// detach returns the bytes that came glued to the answer and ends the use of
// the reader. The connection lives on.
func (a *answer) detach() []byte {
	glued, _ := a.reader.Peek(a.reader.Buffered())
	glued = slices.Clone(glued)
	a.reader.Reset(nil)
	readers.Put(a.reader)
	a.reader = nil
	return glued
}

// giveBack closes the answer and ends the count of its choice, unless a tunnel
// has taken over both.
func (a *answer) giveBack() {
	if !a.taken {
		a.close()
		a.leave()
	}
}

// leave ends the count of the answer's choice.
func (a *answer) leave() {
	if !a.left {
		a.left = true
		hosts.tunnelEnded(a.choice.host)
	}
}

// close ends the use of an answer that does not become a tunnel.
func (a *answer) close() {
	if a.reader != nil {
		a.detach()
	}
	_ = a.conn.Close() // nothing more is expected of it
}
