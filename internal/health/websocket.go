package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// webSocket performs a handshake, has a ping answered, and closes.
func (p *Probe) webSocket(ctx context.Context) error {
	r, err := p.Request.to(ctx, p.Target, p.Secure, p.Replacer)
	if err != nil {
		return err
	}
	offer := &handshake.Offer{Key: handshake.NewKey()}
	offer.Apply(r)
	a, closeAnswer, err := p.exchange(r, offer)
	if err != nil {
		return err
	}
	defer closeAnswer()
	switch {
	case a.StatusCode != http.StatusSwitchingProtocols:
		return fmt.Errorf("the answer has status %d, not 101", a.StatusCode)
	case len(offer.Subprotocols) > 0 && a.Header.Get(handshake.FieldProtocol) == "":
		return errors.New("none of the offered subprotocols was chosen")
	}
	p.doing = "waiting for the pong"
	s := newCheckedSocket(a.Detach())
	if err := s.ping(); err != nil {
		return err
	}
	s.hangUp(ctx)
	return nil
}

// hangUpTime is how long an upstream may take to answer the Close of a probe.
const hangUpTime = 2 * time.Second

// checkedSocket is a WebSocket as the client of it sees it.
type checkedSocket struct {
	conn    relay.Conn
	reader  *bufio.Reader
	scanner frame.Scanner
	payload []byte // of the ping
}

func newCheckedSocket(side relay.Side) *checkedSocket {
	return &checkedSocket{
		conn:    side.Conn,
		reader:  bufio.NewReader(io.MultiReader(bytes.NewReader(side.Buffered), side.Conn)),
		payload: []byte(rand.Text()),
	}
}

// ping sends a ping and waits for its pong. Data that the upstream sends
// meanwhile is not looked at, and a pong with another payload is no answer (RFC
// 6455 section 5.5.3).
func (s *checkedSocket) ping() error {
	if err := s.send(frame.Ping, s.payload); err != nil {
		return fmt.Errorf("sending a ping: %w", err)
	}
	for {
		op, payload, err := s.next()
		switch {
		case err != nil:
			return fmt.Errorf("waiting for the pong: %w", err)
		case op == frame.Close:
			return fmt.Errorf("closed with status %d instead of a pong", s.scanner.CloseCode())
		case op == frame.Pong && bytes.Equal(payload, s.payload):
			return nil
		case op == frame.Ping:
			if err := s.send(frame.Pong, payload); err != nil {
				return fmt.Errorf("sending a pong: %w", err)
			}
		}
	}
}

// hangUp performs the closing handshake and lets the upstream close the
// connection first (RFC 6455 section 7.1.1). There are applications that do
// neither, so it waits no longer than for any peer, and does not judge.
func (s *checkedSocket) hangUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, hangUpTime)
	defer cancel()
	stop := context.AfterFunc(ctx, s.conn.Abort)
	defer stop()
	if _, err := s.conn.Write(frame.AppendClose(nil, frame.StatusNormal, "", frame.NewMask())); err != nil {
		return
	}
	for {
		op, _, err := s.next()
		if err != nil {
			return
		}
		if op == frame.Close {
			_, _ = io.Copy(io.Discard, s.reader) // its end is what is waited for
			return
		}
	}
}

func (s *checkedSocket) send(op frame.Opcode, payload []byte) error {
	_, err := s.conn.Write(frame.AppendControl(nil, op, payload, frame.NewMask()))
	return err
}

// next reads a frame. It returns no payload of data.
func (s *checkedSocket) next() (op frame.Opcode, payload []byte, err error) {
	for event := frame.None; event != frame.HeaderDone; {
		b, err := s.reader.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		if _, event = s.scanner.Next([]byte{b}); event == frame.Violation {
			return 0, nil, errors.New("the upstream violates the protocol")
		}
	}
	h := s.scanner.Header()
	if h.Opcode.IsControl() {
		payload = make([]byte, h.Length)
		if _, err := io.ReadFull(s.reader, payload); err != nil {
			return 0, nil, err
		}
	}
	if err := s.discard(s.reader); err != nil {
		return 0, nil, err
	}
	s.scanner.Scan(payload) // also ends a frame without payload
	return h.Opcode, payload, nil
}

// discard reads what is left of the payload of data.
func (s *checkedSocket) discard(r *bufio.Reader) error {
	const most = 1 << 20
	for s.scanner.Ahead() > 0 {
		n, err := r.Discard(int(min(s.scanner.Ahead(), most)))
		if err != nil {
			return err
		}
		s.scanner.Skip(n)
	}
	return nil
}
